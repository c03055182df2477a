//! The commands of callers.

use std::time::Duration;

use super::acquisition::Stage;
use super::effects::Input;
use super::{Actor, Closing};
use crate::clock::Moment;
use crate::engine::call::Key;
use crate::engine::handle::{Command, Reply};
use crate::engine::observers::Observers;
use crate::engine::work;
use crate::error::Error;
use crate::storage::{Holder, Storage};

impl Actor {
    /// Executes a command.
    pub(super) fn command(&mut self, command: Command) {
        let now = self.clock.now();
        work::changed(1);
        if self.closing.is_some() {
            return self.refuse(command);
        }
        match command {
            Command::Acquire { key, wanted, reply } => self.acquire(now, key, wanted, reply),
            Command::Batch(commands) => commands.into_iter().for_each(|command| self.command(command)),
            Command::Break { name, reply } => self.break_lock(name, reply),
            Command::Cancel { key } => self.queue_step(key, Input::Cancel),
            Command::Close { limit, reply } => self.close(now, limit, reply),
            Command::Detach { key } => self.detach(now, key),
            Command::Findings { reply } => {
                self.reply_with(reply, |storage| async move { storage.findings().await });
            }
            Command::Inspect { name, reply } => {
                self.reply_with(reply, |storage| async move { storage.inspect(&name).await });
            }
            Command::List { prefix, reply } => {
                self.reply_with_list(reply, prefix);
            }
            Command::Observe { name, id, changes } => {
                self.subscribe();
                self.observers.add(name, id, changes, now);
            }
            Command::Outlive { key, reply } => self.outlive(key, reply),
            Command::Release { key, reply } => self.release(now, key, reply),
            Command::Renew { key, ttl, reply } => self.renew_for(key, ttl, reply),
            Command::Resume { key, ticket, options, reply } => {
                self.resume(now, key, &ticket, &options, reply)
            }
            Command::Undo { key } => self.undo(now, key),
            Command::Unobserve { name, id } => self.observers.remove(&name, id),
            Command::Verify { key, reply } => self.verify(key, reply),
        }
        self.run_effects(now);
    }

    /// Answers a command that comes after `close`.
    fn refuse(&mut self, command: Command) {
        fn closed<T>(reply: Reply<T>) {
            let _ = reply.send(Err(Error::closed()));
        }
        match command {
            Command::Acquire { reply, .. } => closed(reply),
            Command::Batch(commands) => commands.into_iter().for_each(|command| self.refuse(command)),
            Command::Break { reply, .. } | Command::Inspect { reply, .. } => closed::<Vec<Holder>>(reply),
            Command::Findings { reply } => closed(reply),
            Command::List { reply, .. } => closed(reply),
            Command::Resume { reply, .. } => closed(reply),
            Command::Outlive { reply, .. } | Command::Renew { reply, .. } | Command::Verify { reply, .. } => {
                closed(reply);
            }
            Command::Close { limit, reply } => {
                let until = self.clock.now().after(limit);
                if let Some(closing) = &mut self.closing {
                    closing.until = std::cmp::min(closing.until, until);
                    closing.replies.push(reply);
                }
            }
            // Every lease is being released already, and its guard knows that it is lost.
            Command::Release { .. }
            | Command::Undo { .. }
            | Command::Detach { .. }
            | Command::Cancel { .. }
            | Command::Observe { .. }
            | Command::Unobserve { .. } => {}
        }
    }

    fn close(&mut self, now: Moment, limit: Duration, reply: Reply<()>) {
        self.closing = Some(Closing { until: now.after(limit), replies: vec![reply] });
        let mut keys: Vec<_> = self.acquisitions.values().map(|acquisition| acquisition.key).collect();
        // Sorted, so that a run can be repeated.
        keys.sort_unstable();
        work::changed(keys.len());
        for key in keys {
            self.queue_step(key, Input::Close);
        }
        self.observers = Observers::new(false);
    }

    /// Answers an attempt with a claim in its lane by the reply to another claim of the same name.
    pub(super) fn answer_shareable(&mut self, key: Key, holder: Option<Holder>) {
        if let Some(acquisition) = self.get_mut(key)
            && matches!(acquisition.stage, Stage::Attempt(_))
        {
            acquisition.in_lane = None;
            self.queue_step(key, Input::SharedAnswer(holder));
        }
    }
}
