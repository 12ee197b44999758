//! A mail that is a job.
