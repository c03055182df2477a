//! The refresh of the markers: reads what the servers know, and writes the markers of those whose vote does not count.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::ballot::majority;
use super::marker::{KnownServer, MarkerState, NewMarker};
use super::nodes::{Nodes, STEP_MAX};
use super::rejoin::new_markers;

/// The shortest time between two refreshes.
const PAUSE: Duration = Duration::from_millis(100);

/// Refreshes the markers. Takes at most three times the limit of a step.
pub(super) async fn refresh(nodes: &Arc<Nodes>) {
    for node in &nodes.all {
        node.reset_uncounted();
    }
    let sent = nodes.clock.now();
    let known = read_markers(nodes).await;
    let markers = new_markers(&known, nodes.ttl_max);
    // A majority must know each new member before its vote counts. Otherwise it could be considered new after it has
    // voted.
    let announced = announce(nodes, &known, &markers).await;
    let until = nodes.clock.now().after(STEP_MAX);
    let mut replies = nodes.call(|node| {
        let marker = markers[node.index].clone().filter(|marker| announced || !is_new_member(marker))?;
        let known = known[node.index].clone()?;
        Some(async move { node.write_marker(&known, &marker, sent).await })
    });
    while replies.next(until).await.is_some() {}
}

/// Refreshes the markers in the background, if a server has replied that its vote does not count, or its marker was
/// never read.
pub(super) fn refresh_soon(nodes: &Arc<Nodes>) {
    if !nodes.all.iter().any(|node| node.is_uncounted()) || nodes.refreshing.swap(true, Ordering::Relaxed) {
        return;
    }
    let nodes = Arc::clone(nodes);
    tokio::spawn(async move {
        refresh(&nodes).await;
        tokio::time::sleep(PAUSE).await;
        nodes.refreshing.store(false, Ordering::Relaxed);
    });
}

async fn read_markers(nodes: &Nodes) -> Vec<Option<KnownServer>> {
    let ttl_max = nodes.ttl_max;
    let until = nodes.clock.now().after(STEP_MAX);
    let mut replies = nodes.call(|node| Some(async move { node.read_marker(ttl_max).await }));
    let mut known: Vec<_> = nodes.all.iter().map(|_| None).collect();
    while let Some((server, reply)) = replies.next(until).await {
        known[server] = reply.ok();
    }
    known
}

/// Sends the names of new members to all servers that answered. Returns `true` if a majority knows them now.
async fn announce(nodes: &Nodes, known: &[Option<KnownServer>], markers: &[Option<NewMarker>]) -> bool {
    let new = markers.iter().flatten().filter(|marker| is_new_member(marker));
    let votes: Vec<_> = new.map(|marker| format!("{}=0", marker.name)).collect();
    if votes.is_empty() {
        return false;
    }
    let votes: Arc<str> = votes.join(" ").into();
    let until = nodes.clock.now().after(STEP_MAX);
    let mut replies = nodes.call(|node| {
        let votes = Arc::clone(&votes);
        known[node.index].is_some().then_some(async move { node.merge_votes(&votes).await })
    });
    let mut announced = 0;
    while let Some((_, reply)) = replies.next(until).await {
        announced += usize::from(reply.is_ok());
    }
    announced >= majority(nodes.len())
}

fn is_new_member(marker: &NewMarker) -> bool {
    marker.state == MarkerState::Valid && marker.vote_count == 0
}
