//! Insertions into the Rust files and templates of a site, at places that are recognized in the text. Each function returns
//! `None` if its place is not there: the user then inserts the line.

/// Inserts `mod name;` among the modules, in alphabetical order.
pub fn add_module(text: &str, name: &str) -> Option<String> {
    let lines: Vec<&str> = text.lines().collect();
    let modules: Vec<(usize, &str)> =
        lines.iter().enumerate().filter_map(|(at, line)| Some((at, module_of(line)?))).collect();
    let at = match modules.iter().find(|(_, module)| *module > name) {
        Some((at, _)) => above_attributes(&lines, *at),
        None => modules.last()?.0 + 1,
    };
    Some(with_line(&lines, at, &format!("mod {name};")))
}

/// Returns true if the file declares the module.
pub fn has_module(text: &str, name: &str) -> bool {
    text.lines().any(|line| module_of(line) == Some(name))
}

fn module_of(line: &str) -> Option<&str> {
    line.trim_start_matches("pub ").strip_prefix("mod ")?.strip_suffix(';')
}

/// Returns the first line of the attributes and comments that belong to this line.
fn above_attributes(lines: &[&str], at: usize) -> usize {
    let own = |line: &&&str| line.starts_with("#[") || line.starts_with("///");
    at - lines[..at].iter().rev().take_while(own).count()
}

fn with_line(lines: &[&str], at: usize, line: &str) -> String {
    let (before, after) = lines.split_at(at);
    before.iter().chain([&line]).chain(after).flat_map(|line| [line, "\n"]).collect()
}

/// Adds calls to the application, after its last route.
pub fn add_routes(text: &str, calls: &[String]) -> Option<String> {
    let is_route = |name: &str| ["route", "get", "post", "put", "patch", "delete", "any"].contains(&name);
    let chain = application(text)?;
    let route = chain.iter().rev().find(|call| is_route(call.name))?;
    Some(with_calls(text, route.end, calls))
}

/// Adds a call to the application, before everything else.
pub fn add_first(text: &str, call: &str) -> Option<String> {
    Some(with_calls(text, application(text)?.first()?.end, &[call.to_owned()]))
}

/// Registers a job, after the other ones.
pub fn add_job(text: &str, job: &str) -> Option<String> {
    let last = text
        .rfind(".register::<")
        .map(|at| at + 1)
        .or_else(|| text.find("Jobs::sqlite(").or(text.find("Jobs::redis(")));
    let open = last? + text[last?..].find('(')?;
    let end = open + length_of_parentheses(&text[open..])?;
    let end = end + usize::from(text[end..].starts_with('?'));
    Some(format!("{}.register::<{job}>(){}", &text[..end], &text[end..]))
}

fn with_calls(text: &str, at: usize, calls: &[String]) -> String {
    let line_end = text[at..].find('\n').map_or(text.len(), |end| at + end);
    let indent = "        ";
    let calls: String = calls.iter().map(|call| format!("\n{indent}{call}")).collect();
    // A comment at the end of the line stays with its call.
    let at = if text[at..line_end].trim_start().starts_with("//") { line_end } else { at };
    format!("{}{calls}{}", &text[..at], &text[at..])
}

/// A call in a chain.
struct Call<'t> {
    name: &'t str,
    /// The offset after its closing parenthesis.
    end: usize,
}

/// Returns the chain of calls that makes the application: that in the function `app`, else in `main`, else the first.
fn application(text: &str) -> Option<Vec<Call<'_>>> {
    let from = text.find("fn app(").or_else(|| text.find("fn main(")).unwrap_or(0);
    let starts = ["App::with_config(", "App::new("].iter().filter_map(|start| text[from..].find(start));
    let start = from + starts.min()? + "App::".len();
    let mut calls = vec![call_at(text, start)?];
    while let Some(next) = calls.last().and_then(|last| next_call(text, last.end)) {
        calls.push(next);
    }
    Some(calls)
}

fn next_call(text: &str, mut at: usize) -> Option<Call<'_>> {
    loop {
        let rest = &text[at..];
        let skipped =
            rest.len() - rest.trim_start_matches(|letter: char| letter.is_whitespace() || letter == '?').len();
        at += skipped;
        match &text[at..] {
            comment if comment.starts_with("//") => at += comment.find('\n')?,
            call if call.starts_with('.') => return call_at(text, at + 1),
            _ => return None,
        }
    }
}

fn call_at(text: &str, at: usize) -> Option<Call<'_>> {
    let open = at + text[at..].find('(')?;
    let name = text[at..open].split("::").next()?;
    Some(Call { name, end: open + length_of_parentheses(&text[open..])? })
}

/// Returns the length of the text from an opening parenthesis to its closing one. Parentheses in strings and comments do not
/// count.
fn length_of_parentheses(text: &str) -> Option<usize> {
    let mut depth = 0_usize;
    let mut at = 0;
    while let Some(letter) = text[at..].chars().next() {
        at += match letter {
            '"' => length_of_string(&text[at..])?,
            '/' if text[at..].starts_with("//") => text[at..].find('\n')?,
            '\'' if text[at..].starts_with("'\"'")
                || text[at..].starts_with("'('")
                || text[at..].starts_with("')'") =>
            {
                3
            }
            _ => letter.len_utf8(),
        };
        match letter {
            '(' => depth += 1,
            ')' => depth = depth.checked_sub(1)?,
            _ => {}
        }
        if depth == 0 {
            return Some(at);
        }
    }
    None
}

fn length_of_string(text: &str) -> Option<usize> {
    let mut is_escaped = false;
    let end = text.char_indices().skip(1).find(|&(_, letter)| {
        let ends = letter == '"' && !is_escaped;
        is_escaped = letter == '\\' && !is_escaped;
        ends
    });
    end.map(|(at, _)| at + 1)
}

/// Returns the path of a function of `aside::routing`: its name if the file imports it.
pub fn routing_function(text: &str, name: &str) -> String {
    let imports = text.split("use aside::routing::").skip(1).filter_map(|import| import.split(';').next());
    let mut names = imports.flat_map(|import| import.split(['{', ',', '}'])).map(str::trim);
    if names.any(|imported| imported == name) { name.to_owned() } else { format!("aside::routing::{name}") }
}

/// Adds a link to the navigation of `templates/layout.html`, a list of pairs of a route and its label.
pub fn add_link(text: &str, route: &str, label: &str) -> Option<String> {
    let lines: Vec<&str> = text.lines().collect();
    let is_pair = |line: &&str| line.trim_start().starts_with("(\"") && line.ends_with("\"),");
    let last = lines.iter().rposition(is_pair)?;
    let indent: String = lines[last].chars().take_while(|letter| *letter == ' ').collect();
    Some(with_line(&lines, last + 1, &format!("{indent}(\"{route}\", \"{label}\"),")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_module_is_inserted_in_alphabetical_order_and_not_below_an_attribute() {
        let text = "mod db;\nmod home;\n#[cfg(test)]\nmod test_site;\n\nuse x;\n";
        assert_eq!(add_module(text, "about").unwrap(), format!("mod about;\n{text}"));
        assert_eq!(add_module(text, "orders").unwrap(), text.replace("home;\n", "home;\nmod orders;\n"));
        assert_eq!(add_module(text, "zoo").unwrap(), text.replace("test_site;\n", "test_site;\nmod zoo;\n"));
        assert!(has_module(text, "home") && !has_module(text, "hom"));
        assert_eq!(add_module("fn main() {}\n", "about"), None);
    }

    #[test]
    fn a_route_follows_the_last_route_of_the_application() {
        let text = r#"
fn admin() -> App {
    App::new().get("/", show)
}

fn app(config: Config) -> App {
    App::with_config(config) // here: (
        .state(Name("a)\"".to_owned()))?
        .route("/", get(|req| { req.render("x", ()) }).name("home")) // the first page
        .healthz()
}
"#;
        let added = add_routes(text, &[".a()".to_owned(), ".b()".to_owned()]).unwrap();
        assert_eq!(added, text.replace("first page\n", "first page\n        .a()\n        .b()\n"));
        let inline = "fn main() { App::new().get(\"/\", |_| \"(\").run() }";
        let added = add_routes(inline, &[".a()".to_owned()]).unwrap();
        assert_eq!(added, "fn main() { App::new().get(\"/\", |_| \"(\")\n        .a().run() }");
        assert_eq!(add_routes("fn app() -> App { shop::app() }", &[]), None);
        assert_eq!(add_routes("fn app() -> App { App::new(", &[]), None);
    }

    #[test]
    fn a_job_is_registered_after_the_others() {
        let chain = "Ok(Jobs::sqlite(path)?.register::<A>().queue(\"a\", 2))";
        assert_eq!(add_job(chain, "B").unwrap(), chain.replace("<A>()", "<A>().register::<B>()"));
        assert_eq!(add_job("Jobs::sqlite(f(path))?", "B").unwrap(), "Jobs::sqlite(f(path))?.register::<B>()");
        assert_eq!(add_job("fn main() {}", "B"), None);
    }

    #[test]
    fn a_function_of_routing_that_is_not_imported_has_its_path() {
        let text = "use aside::routing::{Rate, get};\n";
        assert_eq!(routing_function(text, "get"), "get");
        assert_eq!(routing_function(text, "post"), "aside::routing::post");
    }
}
