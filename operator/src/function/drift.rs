//! Whether a live object is still as it was applied. Pure.
//!
//! Every event that concerns a Function leads here, several per cold start; an apply for each would load
//! the API server just when it has pods to start.

use serde_json::Value;

/// Whether `live` has all that `desired` says. The API server fills in defaults and others add fields of
/// their own, so more may be there. Lists must agree in length: an entry too many is drift.
///
/// A value that the API server writes differently (`1000m` as `1`) counts as drift; the apply that
/// follows changes nothing.
pub(crate) fn covers(live: &Value, desired: &Value) -> bool {
    match (live, desired) {
        (Value::Object(live), Value::Object(desired)) => {
            desired.iter().all(|(key, desired)| live.get(key).is_some_and(|live| covers(live, desired)))
        }
        (Value::Array(live), Value::Array(desired)) => {
            live.len() == desired.len()
                && live.iter().zip(desired).all(|(live, desired)| covers(live, desired))
        }
        (live, desired) => live == desired,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn more_is_fine_and_less_or_other_is_drift() {
        let desired = json!({"a": 1, "list": [{"name": "x"}], "map": {"k": "v"}});
        for (live, expected) in [
            (
                json!({"a": 1, "list": [{"name": "x", "default": true}], "map": {"k": "v", "more": "w"}, "b": 2}),
                true,
            ),
            (json!({"a": 2, "list": [{"name": "x"}], "map": {"k": "v"}}), false),
            (json!({"a": 1, "list": [{"name": "x"}, {"name": "y"}], "map": {"k": "v"}}), false),
            (json!({"a": 1, "list": [], "map": {"k": "v"}}), false),
            (json!({"a": 1, "list": [{"name": "x"}], "map": {}}), false),
            (json!(null), false),
        ] {
            assert_eq!(covers(&live, &desired), expected, "{live}");
        }
    }
}
