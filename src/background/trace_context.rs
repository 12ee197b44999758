//! The header `traceparent` of the W3C Trace Context (<https://www.w3.org/TR/trace-context/>, section 3.2): version, trace
//! id, parent id and flags, as `00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01`.

#[cfg(any(feature = "webhook", test))]
use super::lineage::Parent;
#[cfg(feature = "webhook")]
use super::scope::Context;
use super::trace_id::TraceId;
#[cfg(any(feature = "webhook", test))]
use super::trace_id::mix;

/// The name of the header.
#[cfg(feature = "webhook")]
pub(crate) const HEADER: &str = "traceparent";

/// The length of the header in version 00, which later versions can only extend.
const LENGTH: usize = 55;

/// Returns the trace id of a header, or `None` if the header is invalid.
pub(crate) fn parse(header: &str) -> Option<TraceId> {
    let (known, rest) = header.split_at_checked(LENGTH)?;
    let mut fields = known.split('-');
    let (version, trace, parent, flags) = (fields.next()?, fields.next()?, fields.next()?, fields.next()?);
    let is_valid = fields.next().is_none()
        && is_hex(version, 2)
        && version != "ff"
        && is_hex(parent, 16)
        && parent.bytes().any(|byte| byte != b'0')
        && is_hex(flags, 2)
        && (rest.is_empty() || version != "00" && rest.starts_with('-'));
    TraceId::parse(trace).filter(|_| is_valid)
}

fn is_hex(text: &str, length: usize) -> bool {
    text.len() == length && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

/// Returns the header for a request that the current task, job or request sends to another site; `None` outside of a trace.
///
/// The parent id names the sender: another one for each task or job, and for each attempt.
#[cfg(feature = "webhook")]
pub(crate) fn outgoing() -> Option<String> {
    let Context { lineage, task, .. } = Context::current();
    let attempt = task.and_then(|task| task.attempt()).unwrap_or_default();
    Some(format(lineage.trace?, lineage.parent, attempt))
}

#[cfg(any(feature = "webhook", test))]
fn format(trace: TraceId, sender: Option<Parent>, attempt: u32) -> String {
    let (kind, id) = match sender {
        None => (0, 0),
        Some(Parent::Task(id)) => (1, id),
        Some(Parent::Job(id)) => (2, id),
        Some(Parent::FailureHook) => (3, 0),
    };
    let span = [kind, id, u64::from(attempt)].into_iter().fold(trace.low(), |span, next| mix(span ^ next));
    // All zeros is invalid in the specification.
    format!("00-{trace}-{:016x}-01", span.max(1))
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";

    fn with(version: &str, rest: &str) -> String {
        format!("{version}-{TRACE}-00f067aa0ba902b7-{rest}")
    }

    #[test]
    fn a_valid_header_names_its_trace() {
        let later = [with("01", "01"), with("cc", "01-what-the-future-will-be-like"), with("fe", "00-")];
        for header in later.iter().chain(&[with("00", "01"), with("00", "00"), with("00", "ff")]) {
            assert_eq!(parse(header).map(|trace| trace.to_string()).as_deref(), Some(TRACE), "{header}");
        }
    }

    #[test]
    fn an_invalid_header_is_ignored() {
        let valid = with("00", "01");
        let invalid = [
            String::new(),
            "00".into(),
            TRACE.into(),
            valid.to_uppercase(),
            valid.replace("4bf9", "4BF9"),
            valid.replace("00f0", "00F0"),
            valid.replace('-', "_"),
            valid.replace("4bf9", "4bg9"),
            valid.replace(TRACE, &"0".repeat(32)),
            valid.replace("00f067aa0ba902b7", &"0".repeat(16)),
            valid.replace("00f067aa0ba902b7", "00f067aa0ba902b"),
            valid.replace("00f067aa0ba902b7", "00f067aa0ba902b70"),
            valid.replace("4bf9", "4b-9"),
            valid.replace("4bf9", "é9"),
            with("ff", "01"),
            with("ff", "01-more"),
            with("0", "01"),
            with("000", "01"),
            with("0G", "01"),
            with("00", "1"),
            with("00", "0G"),
            with("00", "01-more"),
            with("00", "01-"),
            with("01", "01more"),
            with("01", "011"),
            format!(" {valid}"),
            format!("{valid}é"),
            format!("{valid},{valid}"),
        ];
        for header in invalid {
            assert!(parse(&header).is_none(), "{header}");
        }
    }

    #[test]
    fn each_sender_and_attempt_has_a_valid_parent_id_of_its_own() {
        let trace = TraceId::parse(TRACE).unwrap();
        let senders =
            [None, Some(Parent::Task(1)), Some(Parent::Task(2)), Some(Parent::Job(1)), Some(Parent::FailureHook)];
        let headers: Vec<String> =
            senders.iter().flat_map(|sender| (0..3).map(|attempt| format(trace, *sender, attempt))).collect();
        assert!(headers.iter().all(|header| parse(header) == Some(trace)));
        assert_eq!(headers.iter().collect::<HashSet<_>>().len(), headers.len());
        assert_eq!(format(trace, Some(Parent::Job(1)), 1), headers[3 * 3 + 1], "it depends on nothing else");
    }
}
