//! The developer's page as HTML, for a build without templates: its text, preformatted.

use super::debug::Report;
use super::html;
use super::message::ErrorSummary;

/// Returns the page.
pub(super) fn page(report: &Report, summary: &ErrorSummary, nonce: &str) -> String {
    html::text_page(summary, nonce, &report.text())
}
