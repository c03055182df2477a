//! Calls: each node gets the items of its slots, all nodes at once, and a slot that has moved is followed.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use redis::{RedisError, Value};

use super::{Cluster, Node, unserved};
use crate::error::{Error, ErrorKind, Result};
use crate::storage::redis::errors::{Remedy, explain, remedy};
use crate::storage::redis::link::Link;
use crate::storage::redis::operation::Operation;
use crate::storage::redis::replicas::{self, Confirmation};
use crate::storage::redis::request::{Batch, Request};
use crate::storage::redis::slots;

/// The items of one slot, by their numbers.
struct Part {
    slot: u16,
    items: Vec<usize>,
}

/// A node, and the parts that it serves.
type Routed = (Arc<Node>, Vec<Part>);

/// The outcome of one request to one node.
enum Outcome<T> {
    Replies(Vec<Result<T>>),
    Failed(Error),
    /// Another node serves the slot. If `asking`, only for this request.
    Redirected {
        node: Arc<Node>,
        asking: bool,
    },
}

/// One call of an operation.
struct Call<'a, O: Operation> {
    cluster: &'a Arc<Cluster>,
    operation: &'a O,
    items: &'a [O::Item],
    /// How long one node may take.
    limit: Option<Duration>,
}

impl Cluster {
    /// Executes an operation for each item. If a node is down, only its own items fail.
    pub(in crate::storage::redis) async fn each<O: Operation>(
        self: &Arc<Self>,
        operation: &O,
        items: &[O::Item],
    ) -> Vec<Result<O::Reply>> {
        let mut replies: Vec<_> = items.iter().map(|_| None).collect();
        let (by_node, unserved_parts) = self.route(self.parts(operation, items));
        if !unserved_parts.is_empty() {
            self.refresh_soon();
        }
        for part in unserved_parts {
            put(&mut replies, &part, Err(unserved(Some(part.slot))));
        }
        let call = Call { cluster: self, operation, items, limit: operation.limit(items) };
        let mut calls: FuturesUnordered<_> =
            by_node.into_iter().map(|(node, parts)| call.execute(node, parts)).collect();
        while let Some(outcomes) = calls.next().await {
            for (part, outcome) in outcomes {
                put(&mut replies, &part, outcome);
            }
        }
        drop(calls);
        replies.into_iter().map(|reply| reply.unwrap_or_else(|| Err(unserved(None)))).collect()
    }

    /// Groups the items by slot.
    fn parts<O: Operation>(&self, operation: &O, items: &[O::Item]) -> Vec<Part> {
        let mut by_slot = BTreeMap::new();
        for (i, item) in items.iter().enumerate() {
            let slot = self.config.keys.slot(operation.name(item));
            by_slot.entry(slot).or_insert_with(Vec::new).push(i);
        }
        by_slot.into_iter().map(|(slot, items)| Part { slot, items }).collect()
    }

    /// Groups the parts by node. Returns those, too, that no node serves.
    fn route(&self, parts: Vec<Part>) -> (Vec<Routed>, Vec<Part>) {
        let state = self.state();
        let (mut by_node, mut unserved) = (BTreeMap::new(), Vec::new());
        for part in parts {
            match state.slots.get(usize::from(part.slot)) {
                Some(Some(number)) => by_node.entry(*number).or_insert_with(Vec::new).push(part),
                _ => unserved.push(part),
            }
        }
        let node = |(number, parts)| Some((Arc::clone(state.nodes.get(usize::from(number))?), parts));
        (by_node.into_iter().filter_map(node).collect(), unserved)
    }

    /// Acts on the error that a node returned for a slot.
    fn on_error<T>(self: &Arc<Self>, error: &RedisError, slot: u16, node: &Node) -> Outcome<T> {
        let (text, asking) = match remedy(error) {
            Remedy::Moved(text) => (text, false),
            Remedy::Ask(text) => (text, true),
            remedy => {
                if remedy == Remedy::FindPrimary {
                    self.refresh_soon();
                }
                return Outcome::Failed(explain(error, &node.place.to_string()));
            }
        };
        let Some(place) = slots::address(&text, &node.place) else {
            return Outcome::Failed(unserved(Some(slot)));
        };
        let mut state = self.state();
        let number = state.number(&place, || self.node(&place));
        let Some(node) = state.nodes.get(usize::from(number)).map(Arc::clone) else {
            return Outcome::Failed(unserved(Some(slot)));
        };
        if !asking {
            state.moved = true;
            if let Some(owner) = state.slots.get_mut(usize::from(slot)) {
                *owner = Some(number);
            }
            drop(state);
            // Other slots may have moved with it.
            self.refresh_soon();
        }
        Outcome::Redirected { node, asking }
    }
}

impl<O: Operation> Call<'_, O> {
    /// Sends a node its parts, and follows one redirection of each.
    async fn execute(&self, node: Arc<Node>, parts: Vec<Part>) -> Vec<(Part, Result<Vec<Result<O::Reply>>>)> {
        let begun = self.cluster.clock.now();
        let outcomes = self.send(&node, &parts, false, self.limit).await;
        let (mut done, mut redirected) = (Vec::new(), BTreeMap::new());
        for (part, outcome) in parts.into_iter().zip(outcomes) {
            match outcome {
                Outcome::Replies(replies) => done.push((part, Ok(replies))),
                Outcome::Failed(error) => done.push((part, Err(error))),
                Outcome::Redirected { node, asking } => {
                    let key = (node.place.to_string(), asking);
                    redirected.entry(key).or_insert_with(|| (node, Vec::new())).1.push(part);
                }
            }
        }
        for ((_, asking), (node, parts)) in redirected {
            let spent = self.cluster.clock.now().since(begun);
            let left = self.limit.map(|limit| limit.saturating_sub(spent));
            let outcomes = self.send(&node, &parts, asking, left).await;
            done.extend(parts.into_iter().zip(outcomes).map(|(part, outcome)| match outcome {
                Outcome::Replies(replies) => (part, Ok(replies)),
                Outcome::Failed(error) => (part, Err(error)),
                Outcome::Redirected { .. } => {
                    let text = "the lock's slot is being moved to another node; retry";
                    let text = format!("{text} slot=`{}`", part.slot);
                    (part, Err(Error::new(ErrorKind::Unavailable, text)))
                }
            }));
        }
        done
    }

    /// Sends the parts to one node in one pipeline. Returns one outcome for each.
    async fn send(
        &self,
        node: &Arc<Node>,
        parts: &[Part],
        asking: bool,
        limit: Option<Duration>,
    ) -> Vec<Outcome<O::Reply>> {
        let sending = self.send_unlimited(node, parts, asking);
        let sent = match limit {
            Some(limit) => tokio::time::timeout(limit, sending).await.unwrap_or_else(|_| {
                let text = "the node did not answer in time; retry";
                let text = format!("{text} server=`{}` limit=`{limit:?}`", node.place);
                Err(Error::new(ErrorKind::Unavailable, text))
            }),
            None => sending.await,
        };
        sent.unwrap_or_else(|error| {
            self.cluster.refresh_soon();
            parts.iter().map(|_| Outcome::Failed(error.clone())).collect()
        })
    }

    async fn send_unlimited(
        &self,
        node: &Arc<Node>,
        parts: &[Part],
        asking: bool,
    ) -> Result<Vec<Outcome<O::Reply>>> {
        let operation = self.operation;
        let parts: Vec<_> = parts.iter().map(|part| (part.slot, part.of(self.items))).collect();
        let confirming = operation.confirming(&node.primary);
        let server = confirming.unwrap_or(&node.primary.server);
        let needed = operation.confirmations(0);
        let wait = confirming.map(|_| {
            let items: Vec<_> = parts.iter().flat_map(|(_, items)| items.iter().copied()).collect();
            replicas::wait(needed, operation.patience(&items))
        });
        let link = if self.limit.is_some() { server.link_now().await? } else { server.link().await? };
        let sent = server.now();
        let mut requests: Vec<_> = parts.iter().map(|(_, items)| operation.request(&link, items)).collect();
        let batch = Batch { requests: &requests, asking, after: wait.as_slice() };
        let (mut values, confirmed) = batch.send(&link).await.map_err(|e| explain(&e, &link.place))?;
        self.retry_narrow(&link, &parts, asking, &mut requests, &mut values).await?;
        let confirmation = Confirmation::read(confirmed, needed, &link);
        let apply = |reply| confirmation.apply(operation, reply);
        let outcomes = parts.iter().zip(&requests).zip(values).map(|(((slot, items), request), value)| {
            if let Value::ServerError(error) = value {
                return self.cluster.on_error(&error.into(), *slot, node);
            }
            let replies = request.reply(server, &link, sent, value);
            replies
                .and_then(|reply| operation.read(reply, items))
                .map(|replies| replies.into_iter().map(|reply| reply.and_then(apply)).collect())
                .map_or_else(Outcome::Failed, Outcome::Replies)
        });
        Ok(outcomes.collect())
    }

    /// Sends those requests again with fewer keys that the node refused because it has only some of their keys.
    async fn retry_narrow(
        &self,
        link: &Link,
        parts: &[(u16, Vec<&O::Item>)],
        asking: bool,
        requests: &mut [Request],
        values: &mut [Value],
    ) -> Result<()> {
        let refused =
            |value: &Value| matches!(value, Value::ServerError(error) if error.code() == "TRYAGAIN");
        let (which, narrow): (Vec<_>, Vec<_>) = (0..values.len())
            .filter(|i| refused(&values[*i]))
            .filter_map(|i| Some((i, self.operation.narrow(&parts[i].1)?)))
            .unzip();
        if which.is_empty() {
            return Ok(());
        }
        let batch = Batch { requests: &narrow, asking, after: &[] };
        let (replies, _) = batch.send(link).await.map_err(|e| explain(&e, &link.place))?;
        for ((i, request), reply) in which.into_iter().zip(narrow).zip(replies) {
            (requests[i], values[i]) = (request, reply);
        }
        Ok(())
    }
}

impl Part {
    fn of<'i, I>(&self, items: &'i [I]) -> Vec<&'i I> {
        self.items.iter().filter_map(|i| items.get(*i)).collect()
    }
}

/// Puts the replies of a part where its items are.
fn put<T>(replies: &mut [Option<Result<T>>], part: &Part, outcome: Result<Vec<Result<T>>>) {
    match outcome {
        Ok(all) => {
            for (i, reply) in part.items.iter().zip(all) {
                replies[*i] = Some(reply);
            }
        }
        Err(error) => {
            for i in &part.items {
                replies[*i] = Some(Err(error.clone()));
            }
        }
    }
}
