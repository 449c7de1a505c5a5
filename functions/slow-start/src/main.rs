//! The hello function, slow to start: it listens only after `START_DELAY` (such as `3s` or `250ms`).
//!
//! It stands for programs that load a model or warm a cache first, and shows that Pilotlight holds
//! requests until a pod answers on its port.

use std::{io, time::Duration};

const DEFAULT_DELAY: &str = "3s";

#[tokio::main(flavor = "current_thread")]
async fn main() -> io::Result<()> {
    let text = std::env::var("START_DELAY").unwrap_or_else(|_| DEFAULT_DELAY.to_owned());
    let delay = delay(&text).ok_or_else(|| {
        let message = format!("START_DELAY must be a number with ms or s, such as 250ms or 3s, not {text}");
        io::Error::new(io::ErrorKind::InvalidInput, message)
    })?;
    // A container's first process has no default handler: without this one, a pod that is told to end
    // while it starts would wait for SIGKILL.
    tokio::select! {
        () = hello::terminated()? => Ok(()),
        () = tokio::time::sleep(delay) => hello::serve(hello::router()).await,
    }
}

fn delay(text: &str) -> Option<Duration> {
    let (digits, milliseconds) = match text.strip_suffix("ms") {
        Some(digits) => (digits, 1),
        None => (text.strip_suffix('s')?, 1000),
    };
    Some(Duration::from_millis(digits.parse::<u64>().ok()?.checked_mul(milliseconds)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_are_read_as_users_write_them() {
        for (text, expected) in [("3s", Some(3000)), ("250ms", Some(250)), ("0s", Some(0))] {
            assert_eq!(delay(text), expected.map(Duration::from_millis), "{text}");
        }
        for text in ["", "3", "s", "-1s", "1.5s", "99999999999999999999s"] {
            assert_eq!(delay(text), None, "{text}");
        }
    }
}
