//! Conditions on a write: `If-Match` and `If-None-Match` (RFC 9110, section 13).

use axum::http::{
    HeaderMap, HeaderName,
    header::{IF_MATCH, IF_NONE_MATCH},
};

/// More etags than this in one condition are refused: each is compared inside Redis.
const MAX_ETAGS: usize = 32;

/// When a write is to happen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Condition {
    /// In any case.
    Always,
    /// If there is nothing (`If-None-Match: *`).
    Absent,
    /// If there is something (`If-Match: *`).
    Present,
    /// If what is there has one of these etags (`If-Match: "a", "b"`).
    Matches(Vec<String>),
}

impl Condition {
    /// The condition of a write; an error is an explanation for whoever sent it.
    pub(super) fn of_write(headers: &HeaderMap) -> Result<Self, &'static str> {
        match (line(headers, &IF_MATCH)?, line(headers, &IF_NONE_MATCH)?) {
            (None, None) => Ok(Self::Always),
            (Some(_), Some(_)) => Err("If-Match and If-None-Match exclude each other"),
            (None, Some(text)) if text == "*" => Ok(Self::Absent),
            (None, Some(_)) => Err("a write knows If-None-Match only with *"),
            (Some(text), None) if text == "*" => Ok(Self::Present),
            (Some(text), None) => Ok(Self::Matches(strong(&text)?)),
        }
    }

    /// The word by which the scripts know it.
    pub(super) const fn word(&self) -> &'static str {
        match self {
            Self::Always => "always",
            Self::Absent => "absent",
            Self::Present => "present",
            Self::Matches(_) => "matches",
        }
    }

    /// The etags that it accepts.
    pub(super) fn etags(&self) -> &[String] {
        match self {
            Self::Matches(etags) => etags,
            Self::Always | Self::Absent | Self::Present => &[],
        }
    }
}

/// Whether the caller of a read has the entry named `etag` already (`If-None-Match`, compared weakly). A
/// header that cannot be read asks for nothing.
pub(super) fn has_already(headers: &HeaderMap, etag: &str) -> bool {
    match line(headers, &IF_NONE_MATCH) {
        Ok(Some(text)) if text == "*" => true,
        Ok(Some(text)) => tags(&text).is_ok_and(|tags| tags.iter().any(|(_, opaque)| opaque == etag)),
        Ok(None) | Err(_) => false,
    }
}

/// An etag as headers write it.
pub(super) fn quoted(etag: &str) -> String {
    format!("\"{etag}\"")
}

/// All lines of the header as one.
fn line(headers: &HeaderMap, name: &HeaderName) -> Result<Option<String>, &'static str> {
    let mut lines = Vec::new();
    for value in headers.get_all(name) {
        lines.push(value.to_str().map_err(|_| "a condition must be plain ASCII")?.trim());
    }
    Ok((!lines.is_empty()).then(|| lines.join(",")))
}

/// The etags of an `If-Match`. Weak ones never match there, so they are left out.
fn strong(text: &str) -> Result<Vec<String>, &'static str> {
    Ok(tags(text)?.into_iter().filter(|(weak, _)| !weak).map(|(_, opaque)| opaque).collect())
}

/// The list of entity tags in `text`: whether each is weak, and what stands between its quotes.
fn tags(text: &str) -> Result<Vec<(bool, String)>, &'static str> {
    const MALFORMED: &str = "a condition is * or a list of etags in double quotes";
    let mut tags = Vec::new();
    let mut rest = text.trim_matches(separator);
    while !rest.is_empty() {
        let (weak, quoted) = rest.strip_prefix("W/").map_or((false, rest), |rest| (true, rest));
        let (opaque, after) =
            quoted.strip_prefix('"').and_then(|rest| rest.split_once('"')).ok_or(MALFORMED)?;
        rest = after.trim_start_matches(separator);
        let separated = rest.is_empty() || after.trim_start_matches([' ', '\t']).starts_with(',');
        if !separated {
            return Err(MALFORMED);
        }
        tags.push((weak, opaque.to_owned()));
        if tags.len() > MAX_ETAGS {
            return Err("a condition may name at most 32 etags");
        }
    }
    if tags.is_empty() { Err(MALFORMED) } else { Ok(tags) }
}

const fn separator(character: char) -> bool {
    matches!(character, ',' | ' ' | '\t')
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        let header =
            |(name, value): &(&'static str, &str)| (HeaderName::from_static(name), value.parse().unwrap());
        pairs.iter().map(header).collect()
    }

    fn matches(etags: &[&str]) -> Result<Condition, &'static str> {
        Ok(Condition::Matches(etags.iter().map(|etag| (*etag).to_owned()).collect()))
    }

    #[test]
    fn conditions_of_writes() {
        for (given, expected) in [
            (vec![], Ok(Condition::Always)),
            (vec![("if-match", "*")], Ok(Condition::Present)),
            (vec![("if-none-match", "*")], Ok(Condition::Absent)),
            (vec![("if-match", r#""a""#)], matches(&["a"])),
            (vec![("if-match", r#""a", "b","c""#)], matches(&["a", "b", "c"])),
            (vec![("if-match", r#", "a" , ,"b,c" ,"#)], matches(&["a", "b,c"])),
            (vec![("if-match", r#""a""#), ("if-match", r#""b""#)], matches(&["a", "b"])),
            (vec![("if-match", r#"W/"a", "b""#)], matches(&["b"])),
            (vec![("if-match", r#"W/"a""#)], matches(&[])),
            (vec![("if-match", r#""""#)], matches(&[""])),
        ] {
            assert_eq!(Condition::of_write(&headers(&given)), expected, "{given:?}");
        }
    }

    #[test]
    fn conditions_that_say_nothing_clear_are_refused() {
        let flood = r#""a","#.repeat(MAX_ETAGS + 1);
        for given in [
            vec![("if-match", "")],
            vec![("if-match", "a")],
            vec![("if-match", r#""a"#)],
            vec![("if-match", r#""a""b""#)],
            vec![("if-match", r#""a" b"#)],
            vec![("if-match", r#"*, "a""#)],
            vec![("if-match", r#"w/"a""#)],
            vec![("if-match", &flood)],
            vec![("if-none-match", r#""a""#)],
            vec![("if-match", "*"), ("if-none-match", "*")],
        ] {
            assert!(Condition::of_write(&headers(&given)).is_err(), "{given:?}");
        }
        let mut bytes = HeaderMap::new();
        bytes.insert(IF_MATCH, HeaderValue::from_bytes(b"\"\xff\"").unwrap());
        assert!(Condition::of_write(&bytes).is_err());
    }

    #[test]
    fn a_reader_may_have_the_entry_already() {
        for (given, has) in [
            (vec![], false),
            (vec![("if-none-match", r#""e""#)], true),
            (vec![("if-none-match", r#""a", W/"e""#)], true),
            (vec![("if-none-match", "*")], true),
            (vec![("if-none-match", r#""E""#)], false),
            (vec![("if-none-match", "e")], false),
            (vec![("if-match", r#""e""#)], false),
        ] {
            assert_eq!(has_already(&headers(&given), "e"), has, "{given:?}");
        }
    }
}
