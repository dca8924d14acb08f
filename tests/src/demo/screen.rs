//! What the demo prints: steps, commands with what they said, verdicts. Colours only where somebody watches.

use std::io::{IsTerminal, Write as _};
use std::time::{Duration, Instant};

use anyhow::Result;

/// The terminal, and the verdicts so far.
#[derive(Debug)]
pub(super) struct Screen {
    colour: bool,
    begun: Instant,
    verdicts: Vec<Verdict>,
}

#[derive(Debug)]
struct Verdict {
    title: String,
    held: bool,
    took: Duration,
}

impl Screen {
    pub(super) fn begin() -> Screen {
        let colour = std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none();
        Screen { colour, begun: Instant::now(), verdicts: Vec::new() }
    }

    /// A line of our own words.
    pub(super) fn say(&self, line: &str) {
        put(&format!("   {line}"));
    }

    /// A command as one would type it at `place`.
    pub(super) fn command(&self, place: &str, words: &[&str]) {
        let words: Vec<String> = words.iter().map(|word| quoted(word)).collect();
        put(&format!("   {}", self.paint(BOLD, &format!("{place}$ {}", words.join(" ")))));
    }

    /// Lines that a program printed, each cut at the screen's width.
    pub(super) fn quote<'t>(&self, lines: impl IntoIterator<Item = &'t str>) {
        for line in lines {
            put(&format!("   {} {}", self.paint(DIM, "|"), cut(line)));
        }
    }

    /// A file's lines after an edit, those that were added (`+`) or removed (`-`) marked.
    pub(super) fn change(&self, before: &str, after: &str) {
        for (sign, line) in difference(before, after) {
            let colour = match sign {
                '+' => GREEN,
                '-' => RED,
                _ => PLAIN,
            };
            put(&format!("   {}", self.paint(colour, &format!("{sign} {line}"))));
        }
    }

    /// Runs one step: what it yields is its verdict in words.
    pub(super) fn step(&mut self, title: &str, play: impl FnOnce(&Screen) -> Result<String>) {
        let begun = Instant::now();
        put(&format!("\n{}", self.paint(BOLD, &format!("{}. {title}", self.verdicts.len() + 1))));
        let outcome = play(self);
        let held = outcome.is_ok();
        match outcome {
            Ok(why) => put(&format!("   {} {why}", self.paint(GREEN, "ok:"))),
            Err(error) => {
                put(&format!("   {} {}", self.paint(RED, "FAILED:"), error.root_cause()));
                let contexts: Vec<String> = error.chain().map(ToString::to_string).collect();
                self.quote(contexts[..contexts.len() - 1].iter().flat_map(|context| context.lines().take(1)));
            }
        }
        self.verdicts.push(Verdict { title: title.to_owned(), held, took: begun.elapsed() });
    }

    /// Prints the table of verdicts and yields whether all held.
    pub(super) fn conclude(&self) -> bool {
        put("");
        for (number, Verdict { title, held, took }) in (1..).zip(&self.verdicts) {
            let verdict = if *held { self.paint(GREEN, "ok    ") } else { self.paint(RED, "FAILED") };
            put(&format!("   {number}  {title:<70} {verdict} {:>5.1} s", took.as_secs_f64()));
        }
        let held = self.verdicts.iter().filter(|verdict| verdict.held).count();
        let all = held == self.verdicts.len();
        let sum = format!("{held} of {} held, in {:.1} s", self.verdicts.len(), self.begun.elapsed().as_secs_f64());
        put(&format!("\n   {}", self.paint(if all { GREEN } else { RED }, &sum)));
        all
    }

    fn paint(&self, colour: &str, text: &str) -> String {
        if self.colour { format!("\x1b[{colour}m{text}\x1b[0m") } else { text.to_owned() }
    }
}

/// A reader that went away (`| head`) is no reason to leave a mesh behind.
pub(super) fn put(line: &str) {
    let mut out = std::io::stdout().lock();
    let _ = writeln!(out, "{line}").and_then(|()| out.flush());
}

/// Lines of both texts in order, with `+`, `-` or a space.
fn difference<'t>(before: &'t str, after: &'t str) -> Vec<(char, &'t str)> {
    let mut before = before.lines().peekable();
    let mut lines = Vec::new();
    for line in after.lines() {
        if before.clone().any(|kept| kept == line) {
            while let Some(lost) = before.next_if(|kept| *kept != line) {
                lines.push(('-', lost));
            }
            before.next();
            lines.push((' ', line));
        } else {
            lines.push(('+', line));
        }
    }
    lines.extend(before.map(|lost| ('-', lost)));
    lines
}

/// As a shell would have to read it.
fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=,@%+&".contains(c);
    if !word.is_empty() && word.chars().all(plain) { word.to_owned() } else { format!("'{word}'") }
}

fn cut(line: &str) -> String {
    let line = line.trim_end();
    match line.char_indices().nth(WIDTH) {
        Some((at, _)) => format!("{} ..", &line[..at]),
        None => line.to_owned(),
    }
}

/// Characters of a quoted line that are shown.
const WIDTH: usize = 110;
const PLAIN: &str = "0";
const BOLD: &str = "1";
const DIM: &str = "2";
const RED: &str = "31";
const GREEN: &str = "32";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_is_quoted_only_where_a_shell_asks_for_it() {
        assert_eq!(quoted("10.42.2.10"), "10.42.2.10");
        assert_eq!(quoted("http://[fd42:2::12]:8000/"), "'http://[fd42:2::12]:8000/'");
        assert_eq!(quoted(""), "''");
    }

    #[test]
    fn a_label_that_comes_and_goes_is_marked_where_it_stands() {
        let (without, with) = ("kind: N\nname: x\nend", "kind: N\nname: x\nlabels: y\nend");
        let added = [(' ', "kind: N"), (' ', "name: x"), ('+', "labels: y"), (' ', "end")];
        assert_eq!(difference(without, with), added);
        assert_eq!(difference(with, without), added.map(|(sign, line)| (if sign == '+' { '-' } else { sign }, line)));
        assert_eq!(difference("", "a"), [('+', "a")]);
    }

    #[test]
    fn a_long_line_is_cut_between_characters() {
        let long = "ü".repeat(WIDTH + 1);
        assert_eq!(cut(&long), format!("{} ..", "ü".repeat(WIDTH)));
        assert_eq!(cut("short\r"), "short");
    }
}
