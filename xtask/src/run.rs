//! Running other programs: every failure names the command, every wait has an end.

use std::fs::File;
use std::io::{self, Write as _};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};

use crate::interrupt;

/// How often a condition is looked at. Short against anything that is waited for, and cheap.
const POLL: Duration = Duration::from_millis(20);

/// How long a program may take to end after it was asked to.
const GRACE: Duration = Duration::from_secs(5);

/// Runs a program that shows its own output, for as long as it takes. An interrupt ends it.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let status = await_end(&mut spawn(command)?)?;
    if !status.success() {
        bail!("`{}` failed: {status}", line(command));
    }
    Ok(())
}

/// Like [`run`], for what the program prints; what it complains of is shown as it comes.
pub(crate) fn printed(command: &mut Command) -> Result<String> {
    let mut child = spawn(command.stdin(Stdio::null()).stdout(Stdio::piped()))?;
    let stdout = child.stdout.take();
    // Read beside the wait: a full pipe would keep the program from ending.
    let reader = thread::spawn(move || stdout.map_or(Ok(String::new()), io::read_to_string));
    let status = await_end(&mut child)?;
    if !status.success() {
        bail!("`{}` failed: {status}", line(command));
    }
    let text = reader.join().map_err(|_| anyhow!("reading the output panicked"))?;
    text.with_context(|| format!("what `{}` printed", line(command)))
}

/// Runs a short program and returns what it printed. Not ended by an interrupt, so that tearing
/// down works while one is pending.
pub(crate) fn output(command: &mut Command) -> Result<String> {
    let output = spawn(command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()))?
        .wait_with_output()?;
    text(command, output)
}

/// Like [`output`], with a file as the program's standard input.
pub(crate) fn output_from(command: &mut Command, input: File) -> Result<String> {
    let output =
        spawn(command.stdin(input).stdout(Stdio::piped()).stderr(Stdio::piped()))?.wait_with_output()?;
    text(command, output)
}

/// Like [`output`], with `input` on the program's standard input.
pub(crate) fn feed(command: &mut Command, input: &[u8]) -> Result<String> {
    let mut child = spawn(command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()))?;
    // A program that fails before it has read everything explains why on stderr: a broken pipe
    // here would only hide that.
    let written = child.stdin.take().map_or(Ok(()), |mut stdin| stdin.write_all(input));
    let printed = text(command, child.wait_with_output()?)?;
    written.with_context(|| format!("writing to `{}`", line(command)))?;
    Ok(printed)
}

/// Replaces xtask by `command`, which then has the terminal and gives the exit status.
pub(crate) fn become_command(command: &mut Command) -> anyhow::Error {
    anyhow!(command.exec()).context(format!("cannot run `{}`", line(command)))
}

/// Waits until `ready` says yes. An interrupt ends the wait.
pub(crate) fn wait_until(what: &str, limit: Duration, mut ready: impl FnMut() -> Result<bool>) -> Result<()> {
    retry(what, limit, || {
        interrupt::check()?;
        ready()
    })
}

/// Like [`wait_until`], but an interrupt does not end it: for tearing down.
pub(crate) fn retry(what: &str, limit: Duration, mut ready: impl FnMut() -> Result<bool>) -> Result<()> {
    let deadline = Instant::now() + limit;
    while !ready()? {
        if Instant::now() > deadline {
            bail!("{what}: not after {} s", limit.as_secs());
        }
        thread::sleep(POLL);
    }
    Ok(())
}

/// The command as a user would type it.
pub(crate) fn line(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    let words: Vec<_> = words.map(|word| quoted(&word.to_string_lossy())).collect();
    without_entering(&words).join(" ")
}

/// Leaves out how a command gets into a node or its network (see `cluster/machine.rs`): long, and
/// never what is wrong with it.
fn without_entering(words: &[String]) -> &[String] {
    let after = |words: &'_ [String]| words.iter().position(|word| word == "--").map_or(0, |at| at + 1);
    if words.get(3).is_none_or(|word| word != "enter") {
        return words;
    }
    let words = &words[after(words)..];
    let detached = usize::from(words.first().is_some_and(|word| word == "setsid"));
    let words = &words[detached..];
    if words.first().is_some_and(|word| word == "nsenter") { &words[after(words)..] } else { words }
}

fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_=+./:,@%".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

/// Starts a program in a process group of its own, so that a terminal's Ctrl-C reaches xtask alone
/// and xtask decides what ends, and when.
pub(crate) fn spawn(command: &mut Command) -> Result<Child> {
    command.process_group(0).spawn().with_context(|| format!("cannot run `{}`", line(command)))
}

fn await_end(child: &mut Child) -> Result<ExitStatus> {
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(status);
        }
        if let Err(interrupted) = interrupt::check() {
            stop(child);
            return Err(interrupted);
        }
        thread::sleep(POLL);
    }
}

/// Ends a program and what it started: politely first, then for good.
pub(crate) fn stop(child: &mut Child) {
    for signal in ["-TERM", "-KILL"] {
        let group = format!("-{}", child.id());
        let _ = Command::new("kill").args([signal, "--", &group]).stderr(Stdio::null()).status();
        if retry("ended", GRACE, || Ok(child.try_wait()?.is_some())).is_ok() {
            return;
        }
    }
}

fn text(command: &Command, output: Output) -> Result<String> {
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!("`{}` failed: {}\n{}", line(command), output.status, said.trim_end());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_can_be_pasted_into_a_shell() {
        let mut command = Command::new("kubectl");
        command.args(["get", "pods", "-o", "jsonpath={.items}", "it's", ""]);
        assert_eq!(line(&command), r"kubectl get pods -o 'jsonpath={.items}' 'it'\''s' ''");
    }

    #[test]
    fn how_a_command_enters_a_node_is_not_shown() {
        let shown = |text: &str| {
            let words: Vec<_> = text.split(' ').map(str::to_owned).collect();
            without_entering(&words).join(" ")
        };
        assert_eq!(shown("sh -c '...' enter /a /b -- nsenter --net=/n -- ls -- x"), "ls -- x");
        assert_eq!(shown("sh -c '...' enter /a -- setsid nsenter -t 1 -- ls"), "ls");
        assert_eq!(shown("sh -c '...' enter /a -- setsid xtask relay"), "xtask relay");
        assert_eq!(shown("git ls-files -- x"), "git ls-files -- x");
    }

    #[test]
    fn a_failure_names_the_command_and_what_it_said() {
        let error = output(Command::new("sh").args(["-c", "echo no luck >&2; exit 3"])).unwrap_err();
        let error = error.to_string();
        assert!(error.contains("no luck") && error.contains("exit status: 3"), "{error}");
    }

    #[test]
    fn a_wait_ends() {
        let error = retry("rain", Duration::from_millis(30), || Ok(false)).unwrap_err();
        assert!(error.to_string().starts_with("rain: not after"));
    }

    #[test]
    fn input_reaches_the_program() {
        assert_eq!(feed(&mut Command::new("cat"), b"hello").unwrap(), "hello");
    }
}
