//! A call of a script.

use std::fmt::{self, Write};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};

use redis::{Cmd, Pipeline, RedisError, Value};

use super::errors::{Remedy, explain, remedy};
use super::link::{Link, Server};
use super::replies::Reply;
use super::script::Script;
use crate::clock::Moment;
use crate::error::Result;

/// One call of a script. Its keys come first, then its arguments, which are data and never part of its text.
pub(super) struct Request {
    script: &'static Script,
    /// The first argument. The script returns it, so that a reply to another request is recognized.
    nonce: u64,
    command: Cmd,
    /// Where keys and arguments are formatted.
    scratch: String,
}

impl Request {
    /// Begins a call with exactly `keys` keys and about `args` arguments.
    pub(super) fn new(script: &'static LazyLock<Script>, keys: usize, args: usize) -> Self {
        static NONCES: AtomicU64 = AtomicU64::new(1);
        let mut command = Cmd::with_capacity(keys + args + 4, (keys + args) * 48 + 128);
        command.arg("EVALSHA").arg(&script.hash).arg(keys);
        let nonce = NONCES.fetch_add(1, Ordering::Relaxed);
        Self { script, nonce, command, scratch: String::with_capacity(128) }
    }

    /// Adds a key or an argument, formatted.
    pub(super) fn put(&mut self, value: impl fmt::Display) -> &mut Self {
        self.scratch.clear();
        // Writing to a string cannot fail.
        let _ = write!(self.scratch, "{value}");
        self.command.arg(self.scratch.as_str());
        self
    }

    /// Adds a key or an argument as it is.
    pub(super) fn text(&mut self, text: &str) -> &mut Self {
        self.command.arg(text);
        self
    }

    /// Adds a key or an argument that `write` appends to an empty string.
    pub(super) fn with(&mut self, write: impl FnOnce(&mut String)) -> &mut Self {
        self.scratch.clear();
        write(&mut self.scratch);
        self.command.arg(self.scratch.as_str());
        self
    }

    /// Ends the keys. The arguments follow.
    pub(super) fn args(&mut self) -> &mut Self {
        self.command.arg(self.nonce);
        self
    }

    /// Calls the script on a server, and again with its text if the server does not know it.
    pub(super) async fn send<'l>(&self, server: &Server, link: &'l Link) -> Result<Reply<'l>> {
        let sent = server.now();
        let value = match link.call(&self.command).await {
            Err(error) if remedy(&error) == Remedy::SendScript => link.call(&self.with_text()).await,
            value => value,
        };
        self.reply(server, link, sent, value.map_err(|e| explain(&e, &link.place))?)
    }

    /// Checks that a value is the reply to this request, and learns the server's time from it.
    pub(super) fn reply<'l>(
        &self,
        server: &Server,
        link: &'l Link,
        sent: Moment,
        value: Value,
    ) -> Result<Reply<'l>> {
        let (mut reply, nonce) = Reply::new(value, &link.place);
        if nonce != Some(self.nonce) {
            // Replies and requests are out of step, so no later reply on this connection can be trusted.
            link.retire();
            return Err(reply.malformed());
        }
        reply.time = reply.number()?;
        if reply.time > 0 {
            link.time.learn(sent, server.now(), reply.time);
        }
        Ok(reply)
    }

    /// Returns the same call as an `EVAL`.
    fn with_text(&self) -> Cmd {
        let mut command = Cmd::new();
        command.arg("EVAL").arg(&self.script.text);
        for arg in self.command.args_iter().skip(2) {
            if let redis::Arg::Simple(bytes) = arg {
                command.arg(bytes);
            }
        }
        command
    }
}

/// How a pipeline of scripts is sent to a server.
#[derive(Clone, Copy)]
pub(super) struct Batch<'a> {
    pub(super) requests: &'a [Request],
    /// Whether `ASKING` precedes each request, because its slot is being imported by that node.
    pub(super) asking: bool,
    /// The commands after the scripts, on the same connection.
    pub(super) after: &'a [Cmd],
}

impl Batch<'_> {
    /// Calls the scripts in one pipeline, and those again with their text that the server does not know. Returns the
    /// values of the scripts, and those of the commands after them.
    pub(super) async fn send(self, link: &Link) -> std::result::Result<(Vec<Value>, Vec<Value>), RedisError> {
        let commands = self.requests.iter().map(|request| request.command.clone());
        let (mut values, mut last) = self.send_once(link, commands).await?;
        let unknown: Vec<_> = (0..values.len()).filter(|i| is_unknown_script(&values[*i])).collect();
        if !unknown.is_empty() {
            // All requests of a batch call the same script. The first brings the text.
            let commands = unknown.iter().enumerate().map(|(n, i)| match n {
                0 => self.requests[*i].with_text(),
                _ => self.requests[*i].command.clone(),
            });
            let (again, after) = self.send_once(link, commands).await?;
            for (i, value) in unknown.iter().zip(again) {
                values[*i] = value;
            }
            last = after;
        }
        Ok((values, last))
    }

    async fn send_once(
        self,
        link: &Link,
        commands: impl Iterator<Item = Cmd>,
    ) -> std::result::Result<(Vec<Value>, Vec<Value>), RedisError> {
        let mut pipeline = Pipeline::new();
        for command in commands {
            if self.asking {
                pipeline.cmd("ASKING");
            }
            pipeline.add_command(command);
        }
        for command in self.after {
            pipeline.add_command(command.clone());
        }
        let mut values = link.call_all(&pipeline).await?;
        let last = values.split_off(values.len().saturating_sub(self.after.len()));
        if self.asking {
            values = values.into_iter().skip(1).step_by(2).collect();
        }
        Ok((values, last))
    }
}

fn is_unknown_script(value: &Value) -> bool {
    matches!(value, Value::ServerError(error) if remedy(&error.clone().into()) == Remedy::SendScript)
}
