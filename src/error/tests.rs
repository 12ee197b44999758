use super::*;

fn boxed(error: Error) -> BoxError {
    error.into()
}

#[test]
fn a_status_is_kept_in_a_box() {
    let back = Error::from_box(boxed(Error::not_found("gone")));
    assert_eq!(back.status_code(), Status::NOT_FOUND);
    assert_eq!(back.message(), Some("gone"));
}

#[test]
fn a_status_is_kept_by_the_question_mark() {
    fn inner() -> std::result::Result<(), BoxError> {
        Err(Error::conflict("taken"))?;
        Ok(())
    }
    assert_eq!(Error::from_box(inner().unwrap_err()).status_code(), Status::CONFLICT);
}

#[test]
fn the_chain_is_joined_without_repetition() {
    let source = std::io::Error::other("disk full");
    let error = Error::from(source).context("cannot save the order").context("checkout");
    assert_eq!(error.chain(), "checkout: cannot save the order: disk full");
    assert_eq!(Error::from_box("plain words").chain(), "plain words");
    assert_eq!(Error::from_box(boxed(Error::internal("once"))).chain(), "once");
}

/// An error that is its own source, by a faulty `source`.
#[derive(Debug)]
struct Endless;

impl fmt::Display for Endless {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("again")
    }
}

impl StdError for Endless {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        Some(self)
    }
}

#[test]
fn an_endless_chain_is_cut() {
    let error = Error::from(Endless).context("once");
    assert_eq!(error.chain(), "once: again");
    assert!(error.find_source::<fmt::Error>().is_none());
}

/// An error whose methods all panic, each with its own message.
#[derive(Debug)]
struct Hostile;

impl fmt::Display for Hostile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("half")?;
        panic!("in its display")
    }
}

impl StdError for Hostile {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        panic!("in its source")
    }
}

impl Drop for Hostile {
    fn drop(&mut self) {
        panic!("in its drop")
    }
}

#[test]
fn the_message_of_an_error_that_panics_is_kept_in_part() {
    let error = Error::from(Hostile).context("saving");
    let chain = error.chain();
    assert!(chain.starts_with("saving: half (its Display panicked: in its display"), "{chain}");
    assert!(format!("{error:?}").starts_with(&chain));
    assert!(Error::from(Hostile).to_string().starts_with("half (its Display panicked"));
    assert!(error.find_source::<fmt::Error>().is_none());
    assert!(error.find_source::<Hostile>().is_some());
}

#[test]
fn an_error_of_the_client_takes_no_backtrace_and_context_keeps_an_existing_one() {
    assert!(Error::not_found("gone").backtrace().is_none() && Error::from(Status::NOT_FOUND).backtrace().is_none());
    let error = Error::internal("ours");
    let trace = error.trace().map(|trace| trace.text().to_owned());
    assert_eq!(error.context("outside").trace().map(|trace| trace.text().to_owned()), trace);
}

/// A location in the standard library is not useful.
#[test]
fn an_error_made_by_a_function_value_has_no_location() {
    let refused: Result<(), &str> = Err("why");
    let made = refused.map_err(Error::bad_request);
    assert_eq!(made.unwrap_err().location(), None);
}

#[test]
fn a_number_that_is_not_a_status_makes_an_error_a_500_that_says_so() {
    for code in [0, 99, 600, u16::MAX] {
        let said = format!("{code} is not a status: those are 100 to 599");
        for error in [Error::new(code, "taken"), Error::conflict("taken").status(code), Error::from(Status::from(code))]
        {
            assert_eq!(error.status_code(), Status::INTERNAL_SERVER_ERROR);
            assert!(error.chain().starts_with(&said), "{error:?}");
        }
        assert!(Error::new(code, "taken").chain().ends_with("taken"));
    }
    for code in [100, 422, 599] {
        let error = Error::conflict("taken").status(code);
        assert_eq!((error.status_code().code(), error.chain().as_str()), (code, "taken"));
    }
}

/// An error whose message has no end.
#[derive(Debug)]
struct Wordy;

impl fmt::Display for Wordy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for _ in 0..1_000_000 {
            f.write_str("née ")?;
        }
        panic!("it is written to the end")
    }
}

impl StdError for Wordy {}

#[test]
fn the_message_of_a_source_is_cut_while_it_is_written() {
    let chain = Error::from(Wordy).context("cannot save").chain();
    assert!(chain.starts_with("cannot save: née née ") && chain.ends_with('…'), "{}", &chain[chain.len() - 50..]);
    assert!((LONGEST_MESSAGE..LONGEST_MESSAGE + 20).contains(&chain.len()), "{}", chain.len());
}

#[test]
fn an_error_is_one_pointer() {
    assert_eq!(size_of::<Result<()>>(), size_of::<usize>());
}
