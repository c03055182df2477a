//! A call of a script: what is sent, what comes back.

use std::fmt::{self, Write};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};

use redis::{Cmd, Pipeline, RedisError, Script, Value};

use super::answers::{Remedy, explain, is_of_permission_to_begin, remedy};
use super::link::{Link, Server};
use crate::clock::Moment;
use crate::error::{Error, ErrorKind, Result};

/// A script beside the file that names it, after the `common.lua` there.
macro_rules! script {
    ($file:literal) => {
        std::sync::LazyLock::new(|| {
            $crate::storage::redis::request::Source::new(concat!(
                include_str!("common.lua"),
                include_str!($file)
            ))
        })
    };
}
pub(in crate::storage) use script;

pub(in crate::storage) static ACQUIRE: LazyLock<Source> = script!("acquire.lua");
pub(in crate::storage) static RENEW: LazyLock<Source> = script!("renew.lua");
pub(in crate::storage) static RELEASE: LazyLock<Source> = script!("release.lua");
pub(in crate::storage) static INSPECT: LazyLock<Source> = script!("inspect.lua");

/// A script's text, and the hash by which the server knows it.
pub(in crate::storage) struct Source {
    text: &'static str,
    hash: String,
}

/// One call of a script. Its keys come first, then its arguments, which are data and never part of its text.
pub(in crate::storage) struct Request {
    script: &'static Source,
    nonce: u64,
    command: Cmd,
    /// Where keys and arguments are put together.
    scratch: String,
}

/// What a script answers to one claim.
pub(in crate::storage) enum Part<L> {
    Number(i64),
    List(L),
}

/// The answer of a script, taken apart from the front.
pub(in crate::storage) struct Answer<'p> {
    values: std::vec::IntoIter<Value>,
    /// The server's clock in µs; 0 if it is not told.
    pub(in crate::storage) time: u64,
    place: &'p str,
}

impl Source {
    pub(in crate::storage) fn new(text: &'static str) -> Self {
        Self { text, hash: Script::new(text).get_hash().to_owned() }
    }
}

impl Request {
    /// Begins a call with so many keys, about so many arguments.
    pub(in crate::storage) fn new(script: &'static LazyLock<Source>, keys: usize, args: usize) -> Self {
        static NONCES: AtomicU64 = AtomicU64::new(1);
        let mut command = Cmd::with_capacity(keys + args + 4, (keys + args) * 48 + 128);
        command.arg("EVALSHA").arg(&script.hash).arg(keys);
        let nonce = NONCES.fetch_add(1, Ordering::Relaxed);
        Self { script, nonce, command, scratch: String::with_capacity(128) }
    }

    /// Adds a key or an argument.
    pub(in crate::storage) fn put(&mut self, value: impl fmt::Display) -> &mut Self {
        self.scratch.clear();
        // Writing to a string cannot fail.
        let _ = write!(self.scratch, "{value}");
        self.command.arg(self.scratch.as_str());
        self
    }

    /// Adds a key or an argument that is at hand.
    pub(in crate::storage) fn text(&mut self, text: &str) -> &mut Self {
        self.command.arg(text);
        self
    }

    /// Adds a key or an argument that is put together.
    pub(in crate::storage) fn with(&mut self, write: impl FnOnce(&mut String)) -> &mut Self {
        self.scratch.clear();
        write(&mut self.scratch);
        self.command.arg(self.scratch.as_str());
        self
    }

    /// Ends the keys; the arguments follow.
    pub(in crate::storage) fn args(&mut self) -> &mut Self {
        self.command.arg(self.nonce);
        self
    }

    /// Calls the script on a server, and with its text if the server does not know it.
    pub(in crate::storage) async fn on<'l>(&self, server: &Server, link: &'l Link) -> Result<Answer<'l>> {
        let (sent, value) = (server.now(), self.call(link).await);
        self.answer(server, link, sent, value.map_err(|e| explain(&e, &link.place))?)
    }

    /// Does the same on a server beside which there is no other. Its error is definite if the server has executed
    /// nothing.
    pub(in crate::storage) async fn on_the_only<'l>(
        &self,
        server: &Server,
        link: &'l Link,
    ) -> Result<Answer<'l>> {
        let (sent, value) = (server.now(), self.call(link).await);
        let value = value.map_err(|error| match explain(&error, &link.place) {
            explained if is_of_permission_to_begin(&error) => explained.definite(),
            explained => explained,
        });
        self.answer(server, link, sent, value?)
    }

    async fn call(&self, link: &Link) -> redis::RedisResult<Value> {
        match link.call(&self.command).await {
            Err(error) if remedy(&error) == Remedy::SendScript => link.call(&self.by_text()).await,
            answer => answer,
        }
    }

    fn by_text(&self) -> Cmd {
        let mut command = Cmd::new();
        command.arg("EVAL").arg(self.script.text);
        for arg in self.command.args_iter().skip(2) {
            if let redis::Arg::Simple(bytes) = arg {
                command.arg(bytes);
            }
        }
        command
    }

    /// Checks that an answer is to this request, and learns the server's time from it.
    pub(in crate::storage) fn answer<'l>(
        &self,
        server: &Server,
        link: &'l Link,
        sent: Moment,
        value: Value,
    ) -> Result<Answer<'l>> {
        let values = match value {
            Value::Array(values) => values,
            _ => Vec::new(),
        };
        let mut answer = Answer { values: values.into_iter(), time: 0, place: &link.place };
        if answer.number().ok() != Some(self.nonce) {
            // Whatever it answers, it is not this; nothing on this connection can be believed.
            link.give_up();
            return Err(senseless(&link.place));
        }
        answer.time = answer.number()?;
        if answer.time > 0 {
            link.time.learn(sent, server.now(), answer.time);
        }
        Ok(answer)
    }
}

impl Answer<'_> {
    /// What errors call the server.
    pub(in crate::storage) fn place(&self) -> &str {
        self.place
    }

    /// Takes what is answered to one claim: a list of its own, or a number.
    pub(in crate::storage) fn part(&mut self) -> Result<Part<Self>> {
        match self.values.next() {
            Some(Value::Array(values)) => {
                Ok(Part::List(Self { values: values.into_iter(), time: self.time, place: self.place }))
            }
            value => self.integer_in(value).map(Part::Number),
        }
    }

    pub(in crate::storage) fn integer(&mut self) -> Result<i64> {
        let value = self.values.next();
        self.integer_in(value)
    }

    fn integer_in(&self, value: Option<Value>) -> Result<i64> {
        match value {
            Some(Value::Int(number)) => Ok(number),
            Some(Value::BulkString(digits)) => {
                let digits = std::str::from_utf8(&digits).ok().and_then(|digits| digits.parse().ok());
                digits.ok_or_else(|| senseless(self.place))
            }
            _ => Err(senseless(self.place)),
        }
    }

    pub(in crate::storage) fn number(&mut self) -> Result<u64> {
        u64::try_from(self.integer()?).map_err(|_| senseless(self.place))
    }

    pub(in crate::storage) fn text(&mut self) -> Result<String> {
        match self.values.next() {
            Some(Value::BulkString(bytes)) => String::from_utf8(bytes).map_err(|_| senseless(self.place)),
            Some(Value::SimpleString(text)) => Ok(text),
            _ => Err(senseless(self.place)),
        }
    }

    pub(in crate::storage) fn senseless(&self) -> Error {
        senseless(self.place)
    }
}

/// Calls scripts together, and those again with their text that the server does not know. Then calls `after`, whose
/// answers come last.
pub(super) async fn call_all(
    link: &Link,
    requests: &[Request],
    asking: bool,
    after: &[Cmd],
) -> std::result::Result<(Vec<Value>, Vec<Value>), RedisError> {
    let (mut values, mut last) =
        call_once(link, requests.iter().map(|request| request.command.clone()), asking, after).await?;
    let unknown = |value: &Value| match value {
        Value::ServerError(error) => remedy(&error.clone().into()) == Remedy::SendScript,
        _ => false,
    };
    let again: Vec<_> = (0..values.len()).filter(|i| unknown(&values[*i])).collect();
    if !again.is_empty() {
        // The first brings the text, which is the same for all.
        let commands = again.iter().enumerate().map(|(n, i)| match n {
            0 => requests[*i].by_text(),
            _ => requests[*i].command.clone(),
        });
        let answered = call_once(link, commands, asking, after).await?;
        for (i, value) in again.iter().zip(answered.0) {
            values[*i] = value;
        }
        last = answered.1;
    }
    Ok((values, last))
}

async fn call_once(
    link: &Link,
    commands: impl Iterator<Item = Cmd>,
    asking: bool,
    after: &[Cmd],
) -> std::result::Result<(Vec<Value>, Vec<Value>), RedisError> {
    let mut pipeline = Pipeline::new();
    for command in commands {
        if asking {
            pipeline.cmd("ASKING");
        }
        pipeline.add_command(command);
    }
    for command in after {
        pipeline.add_command(command.clone());
    }
    let mut values = link.call_all(&pipeline).await?;
    let last = values.split_off(values.len().saturating_sub(after.len()));
    Ok((if asking { values.into_iter().skip(1).step_by(2).collect() } else { values }, last))
}

pub(in crate::storage) fn senseless(place: &str) -> Error {
    let text = "the server's answer makes no sense; check that it is a Redis or a Valkey, and retry";
    Error::new(ErrorKind::Unavailable, format!("{text} server=`{place}`"))
}
