//! `Date` for responses that do not say when they were made (RFC 9110, section 6.6.1).

use std::{
    cell::RefCell,
    time::{SystemTime, UNIX_EPOCH},
};

use http::HeaderValue;
use jiff::{Timestamp, fmt::rfc2822::DateTimePrinter};

thread_local! {
    /// The last second of which this thread was asked, and how it is written.
    static LAST: RefCell<(u64, Option<HeaderValue>)> = const { RefCell::new((0, None)) };
}

/// The time, written once a second.
pub(super) fn date() -> Option<HeaderValue> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).ok()?.as_secs();
    LAST.with_borrow_mut(|(second, date)| {
        if *second != now {
            (*second, *date) = (now, written(now));
        }
        date.clone()
    })
}

fn written(second: u64) -> Option<HeaderValue> {
    let time = Timestamp::from_second(second.try_into().ok()?).ok()?;
    HeaderValue::try_from(DateTimePrinter::new().timestamp_to_rfc9110_string(&time).ok()?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_is_written_as_the_rfc_has_it() {
        assert_eq!(written(784_111_777).unwrap(), "Sun, 06 Nov 1994 08:49:37 GMT");
        assert_eq!(date().unwrap().len(), 29);
    }
}
