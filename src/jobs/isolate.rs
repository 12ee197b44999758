//! Stub until the real one is merged.
use super::engine::Claimed;
use crate::background::failure::Failure;
use crate::background::task::TaskContext;
use std::time::Duration;
#[derive(Clone)]
pub(crate) struct Limits {
    pub(crate) deadline: Duration,
    pub(crate) memory: u64,
}
pub(crate) struct Order {
    pub(crate) name: String,
    pub(crate) limits: Limits,
}
impl Order {
    pub(super) fn new(claimed: &Claimed, limits: Limits) -> Order {
        Order { name: claimed.name.clone(), limits }
    }
}
pub(crate) fn run(_order: &Order, _task: &TaskContext) -> Result<(), Failure> {
    Ok(())
}
