//! The command lines of the program.
//!
//! A line is a command of words between spaces; `#` begins a comment. Bytes are written between double
//! quotes, with the escapes `\n`, `\r`, `\t`, `\\`, `\"` and `\xNN`.
//!
//! ```text
//! flow WHICH DIRECTION pass | delay TIME [jitter TIME] | throttle BYTES-A-SECOND | black-hole
//! cut WHICH DIRECTION after BYTES END
//! end WHICH END
//! trap NAME request|reply "BYTES" [on WHICH] [times N] FATE
//! untrap NAME
//! resume WHICH
//! port open | closed | reset | silent
//! upstream HOST:PORT | unix:PATH
//! heal
//! stats
//! connections
//! wait COUNT == | >= | <= N
//! wait trap NAME passed | sprung [N]
//! quit
//!
//! WHICH      all | open | new | the number of a connection
//! DIRECTION  to-server | to-client | both
//! END        close | reset [to-server | to-client] | half-close to-server|to-client
//! FATE       watch | cut END | hold | delay TIME | cut-reply END | hold-reply | delay-reply TIME
//! TIME       250us | 250ms | 2s
//! COUNT      a field of Stats, such as to_server
//! ```

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use crate::rules::{ConnId, End, Flow, PortState, To, Which};
use crate::stats::Stats;
use crate::trap::Trap;
use crate::wire::Upstream;

/// A parsed command line.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Command {
    /// Sets how bytes are forwarded.
    Flow(Which, Vec<To>, Flow),
    /// Ends connections after this many bytes.
    Cut(Which, Vec<To>, u64, End),
    /// Ends connections now.
    End(Which, End),
    /// Arms a trap under a name.
    Trap(String, Trap),
    /// Disarms the trap of that name.
    Untrap(String),
    /// Resumes what traps hold.
    Resume(Which),
    /// Sets what happens to new connections.
    Port(PortState),
    /// Sends new connections to another server.
    Upstream(Upstream),
    /// Removes every rule and trap.
    Heal,
    /// Returns the counts.
    Stats,
    /// Returns the open connections.
    Connections,
    /// Waits for a count.
    WaitCount(CountTest),
    /// Waits for the trap of that name. The flag selects whether it must have sprung or its bytes have
    /// passed; the number says how often.
    WaitTrap(String, bool, u64),
    /// Ends the program.
    Quit,
}

/// A comparison of one of the counts with a number.
#[derive(Clone, Copy, Debug)]
pub struct CountTest {
    field: usize,
    compare: fn(&u64, &u64) -> bool,
    number: u64,
}

impl CountTest {
    /// Returns `true` if the counts satisfy the comparison.
    #[must_use]
    pub fn holds(&self, stats: &Stats) -> bool {
        (self.compare)(&stats.named()[self.field].1, &self.number)
    }
}

/// Why a line is not a command.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct SyntaxError {
    what: String,
}

impl SyntaxError {
    fn new(what: impl Into<String>) -> Self {
        Self { what: what.into() }
    }
}

impl fmt::Display for SyntaxError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)
    }
}

impl std::error::Error for SyntaxError {}

type Result<T> = std::result::Result<T, SyntaxError>;

impl Command {
    /// Parses a line. Returns `None` if it is empty or a comment.
    ///
    /// # Errors
    ///
    /// If the line is not exactly one command.
    pub fn read(line: &str) -> Result<Option<Self>> {
        let mut words = Words(split(line)?.into_iter());
        let Some(first) = words.0.next() else { return Ok(None) };
        let command = command(&first, &mut words)?;
        match words.0.next() {
            None => Ok(Some(command)),
            Some(extra) => {
                Err(SyntaxError::new(format!("take away what the command does not need: word={extra}")))
            }
        }
    }
}

impl FromStr for Command {
    type Err = SyntaxError;

    fn from_str(line: &str) -> Result<Self> {
        Self::read(line)?.ok_or_else(|| SyntaxError::new("write a command: the line is empty"))
    }
}

fn command(first: &Word, words: &mut Words) -> Result<Command> {
    match first.plain() {
        "flow" => Ok(Command::Flow(words.which()?, words.direction()?, words.flow()?)),
        "cut" => {
            let (which, to) = (words.which()?, words.direction()?);
            words.literally("after")?;
            Ok(Command::Cut(which, to, words.number()?, words.end()?))
        }
        "end" => Ok(Command::End(words.which()?, words.end()?)),
        "trap" => Ok(Command::Trap(words.name()?, words.trap()?)),
        "untrap" => Ok(Command::Untrap(words.name()?)),
        "resume" => Ok(Command::Resume(words.which()?)),
        "port" => {
            let word = words.next("open, closed, reset or silent")?;
            Ok(Command::Port(match word.plain() {
                "open" => PortState::Open,
                "closed" => PortState::Closed,
                "reset" => PortState::Reset,
                "silent" => PortState::Silent,
                _ => return Err(word.instead_of("open, closed, reset or silent")),
            }))
        }
        "upstream" => {
            let server = words.next("host:port or unix:path")?.plain().parse();
            server.map(Command::Upstream).map_err(|error: std::io::Error| SyntaxError::new(error.to_string()))
        }
        "heal" => Ok(Command::Heal),
        "stats" => Ok(Command::Stats),
        "connections" => Ok(Command::Connections),
        "wait" => words.wait(),
        "quit" => Ok(Command::Quit),
        _ => Err(first.instead_of(
            "flow, cut, end, trap, untrap, resume, port, upstream, heal, stats, connections, wait or quit",
        )),
    }
}

/// The words of a line that are not parsed yet.
struct Words(std::vec::IntoIter<Word>);

impl Words {
    fn next(&mut self, wanted: &str) -> Result<Word> {
        self.0.next().ok_or_else(|| SyntaxError::new(format!("the line ends too early: write {wanted}")))
    }

    /// Takes the next word if it is this one. Returns `true` if it was.
    fn has(&mut self, word: &str) -> bool {
        let there = self.0.as_slice().first().is_some_and(|next| next.plain() == word);
        if there {
            self.0.next();
        }
        there
    }

    fn literally(&mut self, word: &str) -> Result<()> {
        let next = self.next(word)?;
        if next.plain() == word { Ok(()) } else { Err(next.instead_of(word)) }
    }

    fn name(&mut self) -> Result<String> {
        let word = self.next("a name")?;
        let name = word.plain();
        if name.is_empty() { Err(word.instead_of("a name without quotes")) } else { Ok(name.to_owned()) }
    }

    fn number(&mut self) -> Result<u64> {
        let word = self.next("a number")?;
        word.plain().parse().map_err(|_| word.instead_of("a number"))
    }

    fn which(&mut self) -> Result<Which> {
        let word = self.next("all, open, new or the number of a connection")?;
        match word.plain() {
            "all" => Ok(Which::All),
            "open" => Ok(Which::Open),
            "new" => Ok(Which::New),
            number => match number.parse() {
                Ok(number) => Ok(Which::One(ConnId::new(number))),
                Err(_) => Err(word.instead_of("all, open, new or the number of a connection")),
            },
        }
    }

    fn direction(&mut self) -> Result<Vec<To>> {
        let word = self.next("to-server, to-client or both")?;
        match word.plain() {
            "to-server" => Ok(vec![To::Server]),
            "to-client" => Ok(vec![To::Client]),
            "both" => Ok(To::BOTH.to_vec()),
            _ => Err(word.instead_of("to-server, to-client or both")),
        }
    }

    fn end(&mut self) -> Result<End> {
        let word = self.next("close, reset or half-close")?;
        match word.plain() {
            "close" => Ok(End::Close),
            "reset" if self.has("to-server") => Ok(End::ResetTo(To::Server)),
            "reset" if self.has("to-client") => Ok(End::ResetTo(To::Client)),
            "reset" => Ok(End::Reset),
            "half-close" => match self.direction()?[..] {
                [to] => Ok(End::HalfClose(to)),
                _ => Err(SyntaxError::new("half-close one direction, or close")),
            },
            _ => Err(word.instead_of("close, reset or half-close")),
        }
    }

    fn flow(&mut self) -> Result<Flow> {
        let word = self.next("pass, delay, throttle or black-hole")?;
        match word.plain() {
            "pass" => Ok(Flow::Pass),
            "delay" => {
                let by = self.time()?;
                let jitter = if self.has("jitter") { self.time()? } else { Duration::ZERO };
                Ok(Flow::Delay { by, jitter })
            }
            "throttle" => match self.number()? {
                0 => Err(SyntaxError::new("throttle to at least 1, or write black-hole")),
                rate => Ok(Flow::throttle(rate)),
            },
            "black-hole" => Ok(Flow::BlackHole),
            _ => Err(word.instead_of("pass, delay, throttle or black-hole")),
        }
    }

    fn time(&mut self) -> Result<Duration> {
        let word = self.next("a time such as 250ms")?;
        let text = word.plain();
        let (number, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()));
        let unit = match unit {
            "us" => Duration::from_micros,
            "ms" => Duration::from_millis,
            "s" => Duration::from_secs,
            _ => return Err(word.instead_of("a time such as 250us, 250ms or 2s")),
        };
        number.parse().map(unit).map_err(|_| word.instead_of("a time such as 250us, 250ms or 2s"))
    }

    fn trap(&mut self) -> Result<Trap> {
        let side = self.next("request or reply")?;
        let bytes = self.next("bytes between double quotes")?;
        if !bytes.quoted || bytes.bytes.is_empty() {
            return Err(bytes.instead_of("at least one byte between double quotes"));
        }
        let mut trap = match side.plain() {
            "request" => Trap::on_request(&bytes.bytes),
            "reply" => Trap::on_reply(&bytes.bytes),
            _ => return Err(side.instead_of("request or reply")),
        };
        if self.has("on") {
            trap = trap.only(self.which()?);
        }
        if self.has("times") {
            trap = match self.number()? {
                0 => return Err(SyntaxError::new("let a trap work at least 1 times")),
                times => trap.times(times),
            };
        }
        let fate = self.next("what happens")?;
        match fate.plain() {
            "watch" => Ok(trap),
            "cut" => Ok(trap.cut(self.end()?)),
            "hold" => Ok(trap.hold()),
            "delay" => Ok(trap.delay(self.time()?)),
            "cut-reply" => Ok(trap.cut_reply(self.end()?)),
            "hold-reply" => Ok(trap.hold_reply()),
            "delay-reply" => Ok(trap.delay_reply(self.time()?)),
            _ => Err(fate.instead_of("watch, cut, hold, delay, cut-reply, hold-reply or delay-reply")),
        }
    }

    fn wait(&mut self) -> Result<Command> {
        let word = self.next("a count, or trap")?;
        if word.plain() == "trap" {
            let name = self.name()?;
            let what = self.next("passed or sprung")?;
            let sprung = match what.plain() {
                "passed" => false,
                "sprung" => true,
                _ => return Err(what.instead_of("passed or sprung")),
            };
            let times = if self.0.as_slice().is_empty() { 1 } else { self.number()? };
            return Ok(Command::WaitTrap(name, sprung, times));
        }
        let names = Stats::default().named().map(|(name, _)| name);
        let field = names.iter().position(|name| *name == word.plain());
        let field = field.ok_or_else(|| word.instead_of(&format!("trap, or one of {}", names.join(", "))))?;
        let compare = self.next("==, >= or <=")?;
        let compare = match compare.plain() {
            "==" => u64::eq,
            ">=" => u64::ge,
            "<=" => u64::le,
            _ => return Err(compare.instead_of("==, >= or <=")),
        };
        Ok(Command::WaitCount(CountTest { field, compare, number: self.number()? }))
    }
}

#[derive(Clone, Debug)]
struct Word {
    bytes: Vec<u8>,
    quoted: bool,
}

impl Word {
    /// Returns the word if it was not quoted, and otherwise an empty text, which matches no keyword.
    fn plain(&self) -> &str {
        if self.quoted { "" } else { str::from_utf8(&self.bytes).unwrap_or_default() }
    }

    fn instead_of(&self, wanted: &str) -> SyntaxError {
        SyntaxError::new(format!("write {wanted}: word={self}"))
    }
}

impl fmt::Display for Word {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let quote = if self.quoted { "\"" } else { "" };
        write!(f, "`{quote}{}{quote}`", self.bytes.escape_ascii())
    }
}

fn split(line: &str) -> Result<Vec<Word>> {
    let mut words = Vec::new();
    let mut rest = line.trim_start();
    while !rest.is_empty() && !rest.starts_with('#') {
        let word;
        if let Some(inside) = rest.strip_prefix('"') {
            (word, rest) = quoted(inside)?;
            if !(rest.is_empty() || rest.starts_with(char::is_whitespace)) {
                return Err(SyntaxError::new("put a space after the closing quote"));
            }
        } else {
            let (text, later) = rest.split_at(rest.find(char::is_whitespace).unwrap_or(rest.len()));
            if text.contains('"') {
                return Err(SyntaxError::new("put a space before the opening quote"));
            }
            word = Word { bytes: text.as_bytes().to_vec(), quoted: false };
            rest = later;
        }
        words.push(word);
        rest = rest.trim_start();
    }
    Ok(words)
}

/// Parses up to the closing quote. Returns the word and the rest.
fn quoted(inside: &str) -> Result<(Word, &str)> {
    let mut bytes = Vec::new();
    let mut chars = inside.chars();
    loop {
        match chars.next().ok_or_else(|| SyntaxError::new("close the quote"))? {
            '"' => return Ok((Word { bytes, quoted: true }, chars.as_str())),
            '\\' => bytes.push(escaped(&mut chars)?),
            other => bytes.extend_from_slice(other.encode_utf8(&mut [0; 4]).as_bytes()),
        }
    }
}

fn escaped(chars: &mut std::str::Chars<'_>) -> Result<u8> {
    let wrong = || SyntaxError::new(r#"escape with \n, \r, \t, \\, \" or \xNN"#);
    match chars.next() {
        Some('n') => Ok(b'\n'),
        Some('r') => Ok(b'\r'),
        Some('t') => Ok(b'\t'),
        Some('\\') => Ok(b'\\'),
        Some('"') => Ok(b'"'),
        Some('x') => {
            let mut digit = || chars.next().and_then(|c| c.to_digit(16));
            let (high, low) = (digit().ok_or_else(wrong)?, digit().ok_or_else(wrong)?);
            u8::try_from(high * 16 + low).map_err(|_| wrong())
        }
        _ => Err(wrong()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_is_read() {
        for (line, wanted) in [
            ("flow all to-server pass", "Flow(All, [Server], Pass)"),
            ("flow open to-client delay 20ms", "Flow(Open, [Client], Delay { by: 20ms, jitter: 0ns })"),
            (
                "flow new both delay 2s jitter 5us",
                "Flow(New, [Server, Client], Delay { by: 2s, jitter: 5µs })",
            ),
            (
                "flow 7 both throttle 1000",
                "Flow(One(ConnId(7)), [Server, Client], Throttle { bytes_per_second: 1000 })",
            ),
            ("flow all both black-hole # gone", "Flow(All, [Server, Client], BlackHole)"),
            ("cut new to-client after 10 reset", "Cut(New, [Client], 10, Reset)"),
            ("end all close", "End(All, Close)"),
            ("end 1 reset to-client", "End(One(ConnId(1)), ResetTo(Client))"),
            ("  end\tall half-close to-server ", "End(All, HalfClose(Server))"),
            ("untrap a", "Untrap(\"a\")"),
            ("resume all", "Resume(All)"),
            ("port silent", "Port(Silent)"),
            ("upstream localhost:1", "Upstream(Tcp(\"localhost:1\"))"),
            ("heal", "Heal"),
            ("stats", "Stats"),
            ("connections", "Connections"),
            ("wait trap a sprung", "WaitTrap(\"a\", true, 1)"),
            ("wait trap a passed 3", "WaitTrap(\"a\", false, 3)"),
            ("quit", "Quit"),
        ] {
            let command: Command = line.parse().unwrap_or_else(|error| panic!("{line}: {error}"));
            assert_eq!(format!("{command:?}"), wanted);
        }
        for line in ["", "   ", "# a comment", "  # another"] {
            assert!(matches!(Command::read(line), Ok(None)), "{line}");
        }
    }

    #[test]
    fn traps_are_read_with_their_bytes() {
        let line = r#"trap a request "a\x00\xfF \"\\\r\n\tä" on new times 5 cut-reply reset to-client"#;
        let Ok(Command::Trap(name, trap)) = line.parse() else { panic!("it is a trap") };
        assert_eq!(name, "a");
        let text = format!("{trap:?}");
        let bytes = b"a\x00\xff \"\\\r\n\t\xc3\xa4";
        assert!(text.contains(&format!("bytes: {:?}", bytes.to_vec())), "{text}");
        assert!(
            text.contains("Reply(Cut(ResetTo(Client)))") && text.contains("which: New, times: 5"),
            "{text}"
        );
    }

    #[test]
    fn counts_are_compared() {
        let mut stats = Stats::default();
        let Ok(Command::WaitCount(test)) = "wait to_server >= 3".parse() else {
            panic!("it waits for a count")
        };
        assert!(!test.holds(&stats));
        stats.to_server = 3;
        assert!(test.holds(&stats));
    }

    #[test]
    fn what_is_wrong_is_refused_and_named() {
        for (line, wanted) in [
            ("flwo all both pass", "word=`flwo`"),
            ("flow all both pass now", "word=`now`"),
            ("flow some both pass", "word=`some`"),
            ("flow all sideways pass", "word=`sideways`"),
            ("flow all both", "write pass, delay, throttle or black-hole"),
            ("flow all both delay 20", "word=`20`"),
            ("flow all both delay -1ms", "word=`-1ms`"),
            ("flow all both delay 99999999999999999999s", "a time"),
            ("flow all both throttle 0", "black-hole"),
            ("flow all both \"pass\"", "word=`\"pass\"`"),
            ("cut all to-client 5 reset", "write after"),
            ("cut all to-client after x reset", "word=`x`"),
            ("end all half-close both", "half-close one"),
            ("end all half-close", "the line ends too early"),
            ("trap a request b hold", "between double quotes"),
            ("trap a request \"\" hold", "at least one byte"),
            ("trap a request \"b\" times 0 hold", "at least 1"),
            ("trap a request \"b\" vanish", "word=`vanish`"),
            ("trap a request \"b", "close the quote"),
            ("trap a request \"\\q\" hold", "escape with"),
            ("trap a request \"\\xg0\" hold", "escape with"),
            ("trap a request \"b\"hold", "a space after"),
            ("trap a request b\"b\" hold", "a space before"),
            ("port ajar", "word=`ajar`"),
            ("upstream localhost", "server=`localhost`"),
            ("upstream unix:", "server=`unix:`"),
            ("upstream :80", "server=`:80`"),
            ("wait to_mars == 1", "word=`to_mars`"),
            ("wait open != 1", "word=`!=`"),
        ] {
            let error = Command::read(line).expect_err(line).to_string();
            assert!(error.contains(wanted), "{line}: {error}");
        }
    }
}
