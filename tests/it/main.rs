//! The one integration binary. What looks at the inside stands beside the code it looks at.

// What goes over the socket: heads that are refused, bodies read and unread, order, closing, workers, stopping, signals.
mod wire;
