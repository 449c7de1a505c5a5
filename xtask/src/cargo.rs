//! What cargo says of what it has built.

use std::path::PathBuf;

use serde_json::Value;

/// The program of a target that cargo's messages name.
pub(crate) fn executable(messages: &str, target: &str) -> Option<PathBuf> {
    let messages = messages.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    messages
        .filter(|message| message["target"]["name"] == target)
        .find_map(|message| Some(PathBuf::from(message["executable"].as_str()?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_test_program_is_found_among_cargos_messages() {
        let messages = r#"{"target":{"name":"pilotlight_tests"},"profile":{"test":false},"executable":null}
{"target":{"name":"e2e"},"profile":{"test":true},"executable":"/target/e2e-1"}
{"reason":"build-finished","success":true}"#;
        assert_eq!(executable(messages, "e2e"), Some("/target/e2e-1".into()));
        assert_eq!(executable("no json", "e2e"), None);
    }
}
