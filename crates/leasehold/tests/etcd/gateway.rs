//! Gateways between the client and the server, which answer in HTTP and not in gRPC when they give up.

use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use h2::server::SendResponse;
use h2::{RecvStream, client::SendRequest};
use http::{HeaderMap, Request, Response};
use leasehold::ErrorKind;
use leasehold_testbed::Etcd;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use crate::tools::*;

/// A reverse proxy of HTTP/2, which gives up after the server has executed a request.
#[derive(Clone)]
struct Gateway {
    port: u16,
    server: u16,
    /// It gives up on the requests with these bytes.
    marker: Arc<Mutex<Option<String>>>,
    /// How often it has done that.
    given_up: watch::Sender<u64>,
}

impl Gateway {
    async fn start(server: &Etcd) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = listener.local_addr().expect("a port").port();
        let gateway =
            Self { port, server: server.port(), marker: Arc::default(), given_up: watch::Sender::new(0) };
        let accepting = gateway.clone();
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(accepting.clone().serve(client));
            }
        });
        gateway
    }

    /// Gives up on the requests with these bytes from now on; on none without.
    fn give_up_on(&self, bytes: Option<String>) {
        *self.marker.lock().unwrap_or_else(PoisonError::into_inner) = bytes;
    }

    async fn serve(self, client: TcpStream) -> Result<(), h2::Error> {
        let server = TcpStream::connect(("127.0.0.1", self.server)).await.expect("the server listens");
        let (requests, connection) = h2::client::handshake(server).await?;
        tokio::spawn(connection);
        let mut client = h2::server::handshake(client).await?;
        while let Some(request) = client.accept().await {
            let (request, answer) = request?;
            tokio::spawn(self.clone().exchange(request, answer, requests.clone()));
        }
        Ok(())
    }

    async fn exchange(
        self,
        request: Request<RecvStream>,
        mut client: SendResponse<Bytes>,
        server: SendRequest<Bytes>,
    ) -> Result<(), h2::Error> {
        let (head, body) = request.into_parts();
        let (sent, _) = read(body).await?;
        let gives_up = self
            .marker
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .as_ref()
            .is_some_and(|bytes| sent.windows(bytes.len()).any(|window| window == bytes.as_bytes()));
        let (answer, mut to_server) =
            server.ready().await?.send_request(Request::from_parts(head, ()), false)?;
        to_server.send_data(sent.into(), true)?;
        let (head, body) = answer.await?.into_parts();
        let (received, trailers) = read(body).await?;
        if gives_up {
            let timeout = Response::builder().status(504).body(()).expect("an answer");
            client.send_response(timeout, true)?;
            self.given_up.send_modify(|times| *times += 1);
            return Ok(());
        }
        let mut to_client = client.send_response(Response::from_parts(head, ()), false)?;
        to_client.send_data(received.into(), trailers.is_none())?;
        trailers.map_or(Ok(()), |trailers| to_client.send_trailers(trailers))
    }
}

/// Reads a whole message, and what follows it.
async fn read(mut body: RecvStream) -> Result<(Vec<u8>, Option<HeaderMap>), h2::Error> {
    let mut all = Vec::new();
    while let Some(chunk) = body.data().await {
        let chunk = chunk?;
        body.flow_control().release_capacity(chunk.len())?;
        all.extend_from_slice(&chunk);
    }
    Ok((all, body.trailers().await?))
}

#[test]
fn a_claim_that_a_gateway_gives_up_after_its_execution_leaves_nothing() {
    run(async {
        let server = Etcd::start().expect("a server");
        let gateway = Gateway::start(&server).await;
        let url = own(&format!("etcd://127.0.0.1:{}", gateway.port));
        let storage = bare(&url).await;
        let ttl = time(4_000);
        let (kept, mine) = (with_ttl("kept", ttl), with_ttl("job", ttl));
        take(&storage, &kept).await;
        gateway.give_up_on(Some(marker(mine.owner)));
        assert!(acquire(&storage, &mine).await.is_err());
        assert_eq!(*gateway.given_up.borrow(), 1);
        gateway.give_up_on(None);
        is_left_alone(&server, &url, &storage, &kept, ttl + soon()).await;
    });
}

#[test]
fn a_gateway_that_gives_up_is_no_reason_to_give_up() {
    run(async {
        let gateway = Gateway::start(common()).await;
        let url = own(&format!("etcd://127.0.0.1:{}", gateway.port));
        let (storage, locks) = (bare(&url).await, client(&url).await);
        let mine = claim("job");
        take(&storage, &mine).await;
        gateway.give_up_on(Some(marker(mine.owner)));
        let error = renew(&storage, &mine).await.expect_err("the gateway gives up");
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
        // An acquire goes on when the gateway does.
        gateway.give_up_on(Some(ACQUIRE.to_owned()));
        let mut given_up = gateway.given_up.subscribe();
        let taking = waiting(locks.lock("other"));
        within(LONG, given_up.wait_for(|times| *times > 1)).await.expect("it runs");
        gateway.give_up_on(None);
        within(LONG, taking).await.expect("no panic").expect("granted").release().await.expect("released");
    });
}
