//! Asks each node for its own locks, all nodes at once, and follows a slot that has moved.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::future::join_all;
use futures_util::stream::FuturesUnordered;
use redis::{RedisError, Value};

use super::{Cluster, Node, unserved};
use crate::error::{Error, ErrorKind, Result};
use crate::storage::progress::Progress;
use crate::storage::redis::answers::{Remedy, explain, remedy};
use crate::storage::redis::inspect::Inspecting;
use crate::storage::redis::list::{self, Page, Pages};
use crate::storage::redis::operation::Verb;
use crate::storage::redis::replicas::{self, Confirmation};
use crate::storage::redis::request::call_all;
use crate::storage::redis::slots;
use crate::storage::{Holder, Name};

/// What is asked about the locks of one slot; the items by their numbers.
struct Part {
    slot: u16,
    items: Vec<usize>,
}

/// A node, and the parts that it is asked for.
type Asked = (Arc<Node>, Vec<Part>);

/// How the answer to a part begins.
enum Outcome<T> {
    Answers(Vec<Result<T>>),
    Failed(Error),
    Elsewhere { node: Arc<Node>, asking: bool },
}

impl Cluster {
    /// Answers each item; an item whose node is away fails by itself.
    pub(in crate::storage::redis) async fn each<V: Verb>(
        self: &Arc<Self>,
        verb: &V,
        items: &[V::Item],
    ) -> Vec<Result<V::Answer>> {
        let mut answers: Vec<_> = items.iter().map(|_| None).collect();
        let (by_node, lost) = self.route(self.parts(verb, items));
        if !lost.is_empty() {
            self.ask_soon();
        }
        for part in lost {
            put(&mut answers, &part, Err(unserved(Some(part.slot))));
        }
        let limit = verb.limit(items);
        let mut calls: FuturesUnordered<_> =
            by_node.into_iter().map(|(node, parts)| self.at(verb, items, node, parts, limit)).collect();
        while let Some(outcomes) = calls.next().await {
            for (part, outcome) in outcomes {
                put(&mut answers, &part, outcome);
            }
        }
        drop(calls);
        answers.into_iter().map(|answer| answer.unwrap_or_else(|| Err(unserved(None)))).collect()
    }

    /// Returns at most `limit` holders at all nodes whose names begin with `prefix` and come after `after`, in order.
    pub(in crate::storage::redis) async fn list(
        self: &Arc<Self>,
        pages: &Pages,
        prefix: &str,
        after: Option<&Name>,
        limit: usize,
    ) -> Result<Vec<Holder>> {
        let keys = &self.config.keys;
        let progress = Progress::current();
        let names = match pages.take(&progress, prefix, after) {
            Some(names) => names,
            None => self.names(&progress, prefix, after).await?,
        };
        let mut page = Page::of(pages, &progress, prefix, after, names, limit);
        while let Some(names) = page.next() {
            let mut holders = Vec::new();
            for seen in self.each(&Inspecting { keys }, &names).await {
                match seen {
                    Ok(seen) => holders.extend(seen),
                    // A list that leaves out what it could not see would be a lie; what is no lock, is not in it.
                    Err(error) if error.kind() == ErrorKind::Unavailable => return Err(error),
                    Err(_) => {}
                }
            }
            page.add(holders);
            progress.step();
        }
        Ok(page.end())
    }

    /// Returns the names of which any node has a record.
    async fn names(
        self: &Arc<Self>,
        progress: &Progress,
        prefix: &str,
        after: Option<&Name>,
    ) -> Result<BTreeSet<Name>> {
        let nodes = self.nodes();
        let found = join_all(nodes.iter().map(async |node| {
            let link = node.primary.server.link().await?;
            list::names(&link, &self.config.keys, progress, prefix, after).await
        }))
        .await;
        let mut names = BTreeSet::new();
        for found in found {
            names.extend(found.inspect_err(|_| self.ask_soon())?);
        }
        Ok(names)
    }

    /// Asks one node for its parts, and follows it once to where it points.
    async fn at<V: Verb>(
        self: &Arc<Self>,
        verb: &V,
        items: &[V::Item],
        node: Arc<Node>,
        parts: Vec<Part>,
        limit: Option<Duration>,
    ) -> Vec<(Part, Result<Vec<Result<V::Answer>>>)> {
        let begun = self.clock.now();
        let outcomes = self.send(verb, items, &node, &parts, false, limit).await;
        let (mut done, mut elsewhere) = (Vec::new(), BTreeMap::new());
        for (part, outcome) in parts.into_iter().zip(outcomes) {
            match outcome {
                Outcome::Answers(answers) => done.push((part, Ok(answers))),
                Outcome::Failed(error) => done.push((part, Err(error))),
                Outcome::Elsewhere { node, asking } => {
                    let key = (node.place.to_string(), asking);
                    elsewhere.entry(key).or_insert_with(|| (node, Vec::new())).1.push(part);
                }
            }
        }
        for ((_, asking), (node, parts)) in elsewhere {
            let left = limit.map(|limit| limit.saturating_sub(self.clock.now().since(begun)));
            let outcomes = self.send(verb, items, &node, &parts, asking, left).await;
            done.extend(parts.into_iter().zip(outcomes).map(|(part, outcome)| match outcome {
                Outcome::Answers(answers) => (part, Ok(answers)),
                Outcome::Failed(error) => (part, Err(error)),
                Outcome::Elsewhere { .. } => {
                    let error = Error::new(
                        ErrorKind::Unavailable,
                        format!("the lock's slot is on its way to another node; retry slot=`{}`", part.slot),
                    );
                    (part, Err(error))
                }
            }));
        }
        done
    }

    /// Sends the parts to one node, together; one outcome for each.
    async fn send<V: Verb>(
        self: &Arc<Self>,
        verb: &V,
        items: &[V::Item],
        node: &Arc<Node>,
        parts: &[Part],
        asking: bool,
        limit: Option<Duration>,
    ) -> Vec<Outcome<V::Answer>> {
        let sending = self.send_now(verb, items, node, parts, asking, limit.is_some());
        let sent = match limit {
            Some(limit) => tokio::time::timeout(limit, sending).await.unwrap_or_else(|_| {
                let text = "the node did not answer in time; retry";
                let text = format!("{text} server=`{}` limit=`{limit:?}`", node.place);
                Err(Error::new(ErrorKind::Unavailable, text))
            }),
            None => sending.await,
        };
        sent.unwrap_or_else(|error| {
            self.ask_soon();
            parts.iter().map(|_| Outcome::Failed(error.clone())).collect()
        })
    }

    async fn send_now<V: Verb>(
        self: &Arc<Self>,
        verb: &V,
        items: &[V::Item],
        node: &Arc<Node>,
        parts: &[Part],
        asking: bool,
        at_once: bool,
    ) -> Result<Vec<Outcome<V::Answer>>> {
        let all: Vec<_> = parts.iter().flat_map(|part| part.of(items)).collect();
        let confirming = verb.confirming(&node.primary);
        let server = confirming.unwrap_or(&node.primary.server);
        let needed = verb.confirmations(0);
        let wait = confirming.map(|_| replicas::wait(needed, verb.patience(&all)));
        let link = if at_once { server.link_now().await? } else { server.link().await? };
        let sent = server.now();
        let parts: Vec<_> = parts.iter().map(|part| (part.slot, part.of(items))).collect();
        let requests: Vec<_> = parts.iter().map(|(_, items)| verb.request(&link, items)).collect();
        let (mut values, acks) = call_all(&link, &requests, asking, wait.as_slice())
            .await
            .map_err(|e| explain(&e, &link.place))?;
        let mut requests = requests;
        let split = |value: &Value| matches!(value, Value::ServerError(error) if error.code() == "TRYAGAIN");
        let again: Vec<_> = (0..values.len())
            .filter(|i| split(&values[*i]))
            .filter_map(|i| Some((i, verb.narrow(&parts[i].1)?)))
            .collect();
        if !again.is_empty() {
            let (which, narrow): (Vec<_>, Vec<_>) = again.into_iter().unzip();
            let called = call_all(&link, &narrow, asking, &[]).await;
            let (answers, _) = called.map_err(|e| explain(&e, &link.place))?;
            for ((i, request), answer) in which.into_iter().zip(narrow).zip(answers) {
                (requests[i], values[i]) = (request, answer);
            }
        }
        let confirmation = Confirmation::read(acks, needed, &link);
        let confirmed = |answer| confirmation.of(verb, answer);
        let outcomes =
            parts.iter().zip(&requests).zip(values).map(|(((slot, items), request), value)| match value {
                Value::ServerError(error) => self.refused(&error.into(), *slot, node),
                value => request
                    .answer(server, &link, sent, value)
                    .and_then(|answer| verb.read(answer, items))
                    .map(|answers| answers.into_iter().map(|answer| answer.and_then(confirmed)).collect())
                    .map_or_else(Outcome::Failed, Outcome::Answers),
            });
        Ok(outcomes.collect())
    }

    /// Does what an error asks for.
    fn refused<T>(self: &Arc<Self>, error: &RedisError, slot: u16, node: &Node) -> Outcome<T> {
        let (text, asking) = match remedy(error) {
            Remedy::Moved(text) => (text, false),
            Remedy::Ask(text) => (text, true),
            Remedy::FindPrimary => {
                self.ask_soon();
                return Outcome::Failed(explain(error, &node.place.to_string()));
            }
            _ => return Outcome::Failed(explain(error, &node.place.to_string())),
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
            // Where one slot went, others may have gone.
            self.ask_soon();
        }
        Outcome::Elsewhere { node, asking }
    }

    /// Puts the items of one slot together.
    fn parts<V: Verb>(&self, verb: &V, items: &[V::Item]) -> Vec<Part> {
        let mut by_slot = BTreeMap::new();
        for (i, item) in items.iter().enumerate() {
            let slot = self.config.keys.slot(verb.name(item));
            by_slot.entry(slot).or_insert_with(Vec::new).push(i);
        }
        by_slot.into_iter().map(|(slot, items)| Part { slot, items }).collect()
    }

    /// Says whom to ask for which parts, and which nobody serves.
    fn route(&self, parts: Vec<Part>) -> (Vec<Asked>, Vec<Part>) {
        let state = self.state();
        let (mut by_node, mut lost) = (BTreeMap::new(), Vec::new());
        for part in parts {
            match state.slots.get(usize::from(part.slot)) {
                Some(Some(number)) => by_node.entry(*number).or_insert_with(Vec::new).push(part),
                _ => lost.push(part),
            }
        }
        let node = |(number, parts)| Some((Arc::clone(state.nodes.get(usize::from(number))?), parts));
        (by_node.into_iter().filter_map(node).collect(), lost)
    }
}

impl Part {
    fn of<'i, I>(&self, items: &'i [I]) -> Vec<&'i I> {
        self.items.iter().filter_map(|i| items.get(*i)).collect()
    }
}

/// Puts the answers of a part where they belong.
fn put<T>(answers: &mut [Option<Result<T>>], part: &Part, outcome: Result<Vec<Result<T>>>) {
    match outcome {
        Ok(all) => {
            for (i, answer) in part.items.iter().zip(all) {
                answers[*i] = Some(answer);
            }
        }
        Err(error) => {
            for i in &part.items {
                answers[*i] = Some(Err(error.clone()));
            }
        }
    }
}
