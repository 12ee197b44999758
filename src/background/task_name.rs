//! The default name of a task: its function, or the place of its closure.

use std::panic::Location;

/// Returns the name of a task from its type: the name of the function, or for a closure the name of the enclosing function
/// with file and line.
pub(super) fn name_of<F>(location: &Location<'_>) -> String {
    let full = std::any::type_name::<F>();
    let at = || format!("{}:{}", location.file(), location.line());
    if full.contains("dyn ") || full.contains("fn(") {
        return format!("task ({})", at());
    }
    let enclosing = full.trim_end_matches("::{{closure}}");
    let name = last_segment(enclosing);
    if enclosing.len() == full.len() { name.to_owned() } else { format!("{name} ({})", at()) }
}

/// Returns the last segment of a type's path: `send` of `shop::mail::send<alloc::string::String>`, and of
/// `<shop::Mailer as shop::Send>::send`.
fn last_segment(path: &str) -> &str {
    let mut depth = 0;
    let bare_end = path.char_indices().rev().find(|&(_, c)| {
        depth += i32::from(c == '>') - i32::from(c == '<');
        depth == 0 && c != '<'
    });
    let path = bare_end.map_or(path, |(index, c)| &path[..index + c.len_utf8()]);
    path.trim_end_matches("::").rsplit("::").next().unwrap_or(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named() {}
    fn generic<T>() {}

    fn name<F: FnOnce()>(_: &F) -> String {
        name_of::<F>(Location::caller())
    }

    #[test]
    fn a_task_is_named_after_its_function() {
        assert_eq!(name(&named), "named");
        assert_eq!(name(&generic::<Vec<String>>), "generic");
        assert_eq!(last_segment("<shop::Mailer as shop::Send>::send"), "send");
        assert_eq!(last_segment("shop::Sender<a::B>::send<c::D<e::F>>"), "send");
    }

    #[test]
    fn a_closure_is_named_after_its_place() {
        let closure = || ();
        assert!(name(&closure).starts_with("a_closure_is_named_after_its_place (src/background/task_name.rs:"));
        let boxed: Box<dyn FnOnce()> = Box::new(|| ());
        assert!(name(&boxed).starts_with("task (src/background/"));
    }
}
