//! The page that a browser gets while no process of the site serves.

use super::ansi::escape;
use super::board::State;

const PAGE: &str = include_str!("page.html");

/// Returns the response with the page: 503, since the site itself comes later. The page of another name than an address or
/// `localhost` gets no details.
pub fn response(state: &State, events: u16, has_fixed_host: bool) -> Vec<u8> {
    let (title, details) = match &state.problem {
        Some(problem) if has_fixed_host => (problem.title.as_str(), problem.details.as_str()),
        Some(problem) => {
            (problem.title.as_str(), "The details are in the terminal, and on this page under http://localhost.")
        }
        None => ("Building the site", ""),
    };
    let page = PAGE
        .replace("{{port}}", &events.to_string())
        .replace("{{title}}", &escape(title))
        .replace("{{progress}}", &state.progress)
        .replace("{{details}}", details);
    let head = format!(
        "HTTP/1.1 503 Service Unavailable\r\nContent-Type: text/html; charset=utf-8\r\nContent-Length: {}\r\n\
         Cache-Control: no-store\r\nRetry-After: 1\r\nConnection: close\r\n\r\n",
        page.len()
    );
    [head, page].concat().into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dev::board::Problem;

    #[test]
    fn the_page_shows_the_problem_or_the_progress() {
        let text = |state: &State| String::from_utf8(response(state, 8001, true)).unwrap();
        let progress = text(&State { progress: "12/40".into(), ..State::default() });
        assert!(progress.contains("Building the site") && progress.contains("12/40") && progress.contains("8001"));
        let problem = Problem { title: "a < b".into(), details: "<span>error</span>".into() };
        let problem = text(&State { problem: Some(problem), ..State::default() });
        assert!(problem.contains("<h1>a &lt; b</h1>") && problem.contains("<span>error</span>"), "{problem}");
        assert!(!problem.contains("{{"), "{problem}");
    }
}
