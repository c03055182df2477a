//! gRPC over one HTTP/2 connection: calls with one answer, and streams.
//!
//! A message is preceded by a byte that says whether it is compressed, and its length in four bytes. The trailers of an
//! answer contain its status. Nothing is compressed, because no request says that it may be.

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use h2::client::{Builder, Connection, ResponseFuture, SendRequest};
use h2::{RecvStream, SendStream};
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode, Version};
use percent_encoding::percent_decode;
use prost::Message;
use tokio::io::{AsyncRead, AsyncWrite};

use super::errors::Fault;

/// A connection that calls and streams share.
#[derive(Clone)]
pub(super) struct Channel {
    requests: SendRequest<Bytes>,
    /// The scheme and the host of every request.
    origin: String,
    /// The token of the user, if the server asked for a password.
    token: Option<HeaderValue>,
}

/// A call in flight. Dropping it cancels the call at the server.
pub(super) struct Exchange {
    requests: SendStream<Bytes>,
    answer: Answer,
    received: BytesMut,
}

enum Answer {
    Awaited(ResponseFuture),
    Body(RecvStream),
    /// The status was received.
    Ended,
}

/// What precedes a message.
const HEADER: usize = 5;
/// The largest message that is received.
const MESSAGE_MAX: usize = 1 << 28;
/// How much a server may send before it is read. Many small answers arrive at once.
const WINDOW: u32 = 1 << 22;

impl Channel {
    /// Opens HTTP/2 on a connection. The other result runs the connection, and ends with it.
    pub(super) async fn open<S: AsyncRead + AsyncWrite + Unpin>(
        io: S,
        origin: String,
    ) -> Result<(Self, Connection<S, Bytes>), Fault> {
        let opened = Builder::new()
            .enable_push(false)
            .initial_window_size(WINDOW)
            .initial_connection_window_size(WINDOW)
            // Calls that the engine drops are reset. Their answers may still arrive.
            .max_concurrent_reset_streams(4096)
            .handshake(io)
            .await;
        let (requests, connection) = opened.map_err(|_| Fault::Broken)?;
        Ok((Self { requests, origin, token: None }, connection))
    }

    /// Sends this token of a user with each call.
    pub(super) fn set_token(&mut self, token: &str) {
        self.token = HeaderValue::from_str(token).ok().map(|mut token| {
            token.set_sensitive(true);
            token
        });
    }

    /// Calls a method with one request and one answer.
    pub(super) async fn call<R: Message + Default>(
        &self,
        path: &'static str,
        request: &impl Message,
    ) -> Result<R, Fault> {
        let mut exchange = self.exchange(path).await?;
        exchange.send(request, true)?;
        let answer = exchange.next().await?.ok_or(Fault::Broken)?;
        // The status follows the message.
        while exchange.next::<R>().await?.is_some() {}
        Ok(answer)
    }

    /// Calls a method, and leaves both directions open.
    pub(super) async fn exchange(&self, path: &'static str) -> Result<Exchange, Fault> {
        let request = Request::builder()
            .method(Method::POST)
            .version(Version::HTTP_2)
            .uri(format!("{}{path}", self.origin))
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            // A member that has lost its leader ends its streams.
            .header("hasleader", "true");
        let request = match &self.token {
            Some(token) => request.header("token", token),
            None => request,
        };
        let request = request.body(()).map_err(|_| Fault::Broken)?;
        let mut ready = self.requests.clone().ready().await.map_err(|_| Fault::Broken)?;
        let (answer, requests) = ready.send_request(request, false).map_err(|_| Fault::Broken)?;
        Ok(Exchange { requests, answer: Answer::Awaited(answer), received: BytesMut::new() })
    }
}

impl Exchange {
    /// Sends a message; the last one if `is_last`.
    pub(super) fn send(&mut self, message: &impl Message, is_last: bool) -> Result<(), Fault> {
        let length = message.encoded_len();
        let mut bytes = BytesMut::with_capacity(HEADER + length);
        bytes.put_u8(0);
        bytes.put_u32(u32::try_from(length).map_err(|_| Fault::Broken)?);
        message.encode(&mut bytes).map_err(|_| Fault::Broken)?;
        self.requests.send_data(bytes.freeze(), is_last).map_err(|_| Fault::Broken)
    }

    /// Waits for the next message; `None` after the last one. If this future is dropped, no message is lost.
    pub(super) async fn next<R: Message + Default>(&mut self) -> Result<Option<R>, Fault> {
        loop {
            if let Some(message) = self.take()? {
                return R::decode(message).map(Some).map_err(|_| Fault::Broken);
            }
            match &mut self.answer {
                Answer::Awaited(answer) => {
                    let (head, body) = answer.await.map_err(|_| Fault::Broken)?.into_parts();
                    if head.status != StatusCode::OK {
                        return Err(fault_of(head.status));
                    }
                    // An answer without messages has its status here.
                    if head.headers.contains_key("grpc-status") {
                        self.answer = Answer::Ended;
                        return status(&head.headers).map(|()| None);
                    }
                    self.answer = Answer::Body(body);
                }
                Answer::Body(body) => match body.data().await {
                    Some(chunk) => {
                        let chunk = chunk.map_err(|_| Fault::Broken)?;
                        let _gone = body.flow_control().release_capacity(chunk.len());
                        self.received.extend_from_slice(&chunk);
                    }
                    None => {
                        let trailers = body.trailers().await.map_err(|_| Fault::Broken)?;
                        self.answer = Answer::Ended;
                        return status(&trailers.unwrap_or_default()).map(|()| None);
                    }
                },
                Answer::Ended => return Ok(None),
            }
        }
    }

    /// Takes a message out of what was received, if it is complete.
    fn take(&mut self) -> Result<Option<Bytes>, Fault> {
        let Some(header) = self.received.get(..HEADER) else { return Ok(None) };
        let mut header = header;
        let is_compressed = header.get_u8() != 0;
        let length = usize::try_from(header.get_u32()).unwrap_or(usize::MAX);
        if is_compressed || length > MESSAGE_MAX {
            return Err(Fault::Broken);
        }
        if self.received.len() < HEADER + length {
            return Ok(None);
        }
        self.received.advance(HEADER);
        Ok(Some(self.received.split_to(length).freeze()))
    }
}

/// Returns what an answer without gRPC means. A gateway that gives up may have passed the request on.
fn fault_of(status: StatusCode) -> Fault {
    let gives_up = status.is_server_error() && status != StatusCode::NOT_IMPLEMENTED
        || [StatusCode::REQUEST_TIMEOUT, StatusCode::TOO_MANY_REQUESTS].contains(&status);
    if gives_up { Fault::Broken } else { Fault::NotGrpc }
}

/// Reads the status at the end of an answer.
fn status(trailers: &HeaderMap) -> Result<(), Fault> {
    let code = trailers.get("grpc-status").and_then(|code| code.to_str().ok()?.parse().ok());
    match code {
        Some(0) => Ok(()),
        Some(code) => {
            let text = trailers.get("grpc-message").map(HeaderValue::as_bytes).unwrap_or_default();
            Err(Fault::Status { code, text: percent_decode(text).decode_utf8_lossy().into_owned() })
        }
        None => Err(Fault::Broken),
    }
}
