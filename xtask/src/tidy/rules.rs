//! The rules, each a function from one file's text to what breaks it.

use std::fmt;

/// Longest file, tests not counted, and longest `main.rs`.
const FILE_LINES: usize = 400;
const MAIN_LINES: usize = 60;

/// Longest function. Most should be far shorter; this is where it stops.
const FUNCTION_LINES: usize = 80;

/// What a pure file must not name.
const IMPURE: [&str; 6] =
    ["tokio::", "kube::Client", "async fn", "Instant::now", "SystemTime::now", "rand::"];

/// Places that exist on one machine only. In pieces, so that this file does not break its own rule.
const MACHINE_PATHS: [&str; 3] = [concat!("/wo", "rk/"), concat!("/ro", "ot/"), concat!("/ho", "me/")];

/// One file.
#[derive(Debug, Clone, Copy)]
pub(super) struct Source<'a> {
    /// Its path in the repository.
    pub(super) file: &'a str,
    pub(super) text: &'a str,
    pub(super) pure: bool,
}

/// One place that breaks a rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Breach {
    pub(super) file: String,
    pub(super) line: usize,
    pub(super) rule: String,
}

impl fmt::Display for Breach {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.file, self.line, self.rule)
    }
}

/// Everything in a file that breaks a rule.
pub(super) fn check(source: &Source<'_>) -> Vec<Breach> {
    let mut found = machine_paths(source);
    if source.file.ends_with(".rs") {
        found.extend(opening(source));
        found.extend(file_length(source));
        found.extend(function_lengths(source));
        found.extend(ignored_tests(source));
        found.extend(impurities(source));
    }
    let breach = |(line, rule)| Breach { file: source.file.to_owned(), line, rule };
    found.into_iter().map(breach).collect()
}

/// A line, counted from 1, and what is wrong there.
type Found = (usize, String);

impl<'a> Source<'a> {
    fn lines(&self) -> impl Iterator<Item = (usize, &'a str)> {
        self.text.lines().enumerate().map(|(index, line)| (index + 1, line))
    }

    /// The lines before the unit tests, none for a file of tests.
    fn code(&self) -> impl Iterator<Item = (usize, &'a str)> {
        let tests = self.file.contains("tests/") || self.file.ends_with("/tests.rs");
        self.lines().take_while(move |(_, line)| !tests && *line != "#[cfg(test)]")
    }
}

fn opening(source: &Source<'_>) -> Option<Found> {
    let opens = source.text.starts_with("//!");
    (!opens).then(|| (1, "does not open with `//!` and what it is for".into()))
}

fn file_length(source: &Source<'_>) -> Option<Found> {
    let limit = if source.file.ends_with("main.rs") { MAIN_LINES } else { FILE_LINES };
    let lines = source.code().count();
    (lines > limit).then(|| (lines, format!("{lines} lines without tests, and {limit} are the limit")))
}

fn function_lengths(source: &Source<'_>) -> Vec<Found> {
    let lines: Vec<_> = source.code().collect();
    let mut found = Vec::new();
    for (index, &(number, line)) in lines.iter().enumerate() {
        let Some(name) = function_name(line) else { continue };
        let length = function_length(&lines[index..]);
        if length > FUNCTION_LINES {
            found.push((number, format!("`{name}` has {length} lines, and {FUNCTION_LINES} are the limit")));
        }
    }
    found
}

/// The name of the function that a line begins to define.
fn function_name(line: &str) -> Option<&str> {
    const BEFORE: [&str; 5] = ["pub", "async", "const", "unsafe", "extern"];
    let (before, rest) = line.split_once("fn ")?;
    let modifier = |word: &str| BEFORE.iter().any(|known| word == *known || word.starts_with("pub("));
    // `pub(in super::x)` has a space inside; nothing here is written so.
    let definition = before.split_whitespace().all(modifier);
    let end = rest.find(|c: char| !c.is_alphanumeric() && c != '_')?;
    (definition && end > 0).then(|| &rest[..end])
}

/// From the line of `fn` to that of its closing brace, which rustfmt puts at the same depth.
fn function_length(lines: &[(usize, &str)]) -> usize {
    let first = lines.first().map_or("", |(_, line)| line);
    let depth = first.len() - first.trim_start().len();
    let closing = format!("{}}}", " ".repeat(depth));
    let one_line = first.ends_with('}') || first.ends_with(';');
    let end = lines.iter().position(|(_, line)| *line == closing);
    if one_line { 1 } else { end.map_or(1, |end| end + 1) }
}

fn ignored_tests(source: &Source<'_>) -> Vec<Found> {
    let ignored = source.lines().filter(|(_, line)| line.trim_start().starts_with(concat!("#[ign", "ore")));
    ignored.map(|(number, _)| (number, "an ignored test: make it work, or remove it".into())).collect()
}

fn impurities(source: &Source<'_>) -> Vec<Found> {
    if !source.pure {
        return Vec::new();
    }
    let code = source.code().filter(|(_, line)| !line.trim_start().starts_with("//"));
    code.flat_map(|(number, line)| {
        let named = IMPURE.into_iter().filter(|word| line.contains(word));
        named.map(move |word| (number, format!("names `{word}` in a file that must be pure")))
    })
    .collect()
}

fn machine_paths(source: &Source<'_>) -> Vec<Found> {
    source
        .lines()
        .filter(|(_, line)| MACHINE_PATHS.iter().any(|path| line.contains(path)))
        .map(|(number, _)| (number, "names a path of one machine".into()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn breaks(file: &str, text: &str, expected: &[(usize, &str)]) {
        let found = check(&Source { file, text, pure: file.contains("pure") });
        let found: Vec<_> = found.iter().map(|breach| (breach.line, breach.rule.as_str())).collect();
        assert_eq!(found.len(), expected.len(), "{found:?}");
        for ((line, rule), (expected_line, part)) in found.iter().zip(expected) {
            assert!(line == expected_line && rule.contains(part), "{found:?}");
        }
    }

    fn function(lines: usize) -> String {
        format!("//! x\npub(crate) async fn long() {{\n{}}}\n", "    x();\n".repeat(lines - 2))
    }

    #[test]
    fn a_file_says_what_it_is_for() {
        breaks("a.rs", "//! x\nfn a() {}\n", &[]);
        breaks("a.rs", "fn a() {}\n", &[(1, "//!")]);
        breaks("a.md", "text\n", &[]);
    }

    #[test]
    fn a_long_function_is_found_where_it_begins() {
        breaks("a.rs", &function(FUNCTION_LINES), &[]);
        breaks("a.rs", &function(FUNCTION_LINES + 1), &[(2, "`long` has 81 lines")]);
        breaks("tests/a.rs", &function(FUNCTION_LINES + 1), &[]);
    }

    #[test]
    fn a_method_ends_at_its_own_depth() {
        let method = "impl X {\n    fn a(&self) {\n        if b {\n        }\n    }\n}\n";
        let lines: Vec<_> = method.lines().skip(1).map(|line| (0, line)).collect();
        assert_eq!(function_length(&lines), 4);
        assert_eq!(function_name("    pub(super) const fn a<T>("), Some("a"));
        assert_eq!(function_name("    // what fn does"), None);
        assert_eq!(function_name("    visit: fn (u8),"), None);
    }

    #[test]
    fn tests_do_not_count() {
        let text = format!("//! x\n#[cfg(test)]\n{}", "//\n".repeat(FILE_LINES));
        breaks("a.rs", &text, &[]);
        breaks("a.rs", &"//! x\n".repeat(FILE_LINES + 1), &[(401, "400 are the limit")]);
        breaks("src/main.rs", &"//! x\n".repeat(MAIN_LINES + 1), &[(61, "60 are the limit")]);
    }

    #[test]
    fn ignored_tests_are_named() {
        breaks("a.rs", concat!("//! x\n    #[ign", "ore = \"slow\"]\n"), &[(2, "ignored")]);
    }

    #[test]
    fn a_pure_file_reads_no_clock() {
        let text = "//! x\nfn a() { Instant::now() }\n// not Instant::now\n";
        breaks("pure.rs", text, &[(2, "Instant::now")]);
        breaks("other.rs", text, &[]);
        breaks("pure.rs", "//! x\n#[cfg(test)]\nlet now = Instant::now();\n", &[]);
    }

    #[test]
    fn machine_paths_are_found_in_any_text() {
        breaks("a.md", &format!("x\nsee {}x\n", MACHINE_PATHS[0]), &[(2, "one machine")]);
    }
}
