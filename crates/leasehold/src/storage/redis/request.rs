//! A call of a script: what is sent, what comes back.

use std::fmt::{self, Write};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};

use redis::{Cmd, RedisError, Script, Value};

use super::answers::{Remedy, explain, remedy};
use super::link::{Link, Server};
use crate::clock::Moment;
use crate::error::{Error, ErrorKind, Result};

macro_rules! script {
    ($file:literal) => {
        LazyLock::new(|| Source::new(concat!(include_str!("common.lua"), include_str!($file))))
    };
}

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
        let sent = server.now();
        let value = self.value(link).await.map_err(|e| explain(&e, &link.place))?;
        self.answer(server, link, sent, value)
    }

    /// Calls the script; the error is the server's.
    pub(in crate::storage) async fn value(&self, link: &Link) -> std::result::Result<Value, RedisError> {
        match link.call(self.by_hash()).await {
            Err(error) if remedy(&error) == Remedy::SendScript => link.call(&self.by_text()).await,
            answer => answer,
        }
    }

    pub(in crate::storage) fn by_hash(&self) -> &Cmd {
        &self.command
    }

    pub(in crate::storage) fn by_text(&self) -> Cmd {
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
            server.time.learn(sent, server.now(), answer.time);
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
            Some(Value::Int(number)) => Ok(Part::Number(number)),
            Some(Value::BulkString(digits)) => {
                let digits = std::str::from_utf8(&digits).ok().and_then(|digits| digits.parse().ok());
                digits.map(Part::Number).ok_or_else(|| senseless(self.place))
            }
            _ => Err(senseless(self.place)),
        }
    }

    pub(in crate::storage) fn integer(&mut self) -> Result<i64> {
        match self.values.next() {
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

pub(in crate::storage) fn senseless(place: &str) -> Error {
    let text = "the server's answer makes no sense; check that it is a Redis or a Valkey, and retry";
    Error::new(ErrorKind::Unavailable, format!("{text} server=`{place}`"))
}
