//! A proxy in front of a real Redis forwards everything, except what its rules change.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;

use leasehold_testbed::redis::proxy::{Rule, hostile, states};
use leasehold_testbed::{Error, Redis, RedisProxy, Result, interop, shared, until};

/// A client that sends and reads raw bytes.
struct Client(TcpStream);

impl Client {
    fn connect(proxy: &RedisProxy) -> Result<Self> {
        let stream = TcpStream::connect(("127.0.0.1", proxy.port()))?;
        stream.set_read_timeout(Some(leasehold_testbed::scaled(std::time::Duration::from_secs(10))))?;
        Ok(Self(stream))
    }

    fn send(&mut self, lines: &[&str]) -> Result<()> {
        let requests = lines.iter().map(|line| {
            let words: Vec<_> =
                line.split(' ').map(|word| format!("${}\r\n{word}\r\n", word.len())).collect();
            format!("*{}\r\n{}", words.len(), words.concat())
        });
        Ok(self.0.write_all(requests.collect::<String>().as_bytes())?)
    }

    #[track_caller]
    fn expect(&mut self, expected: &[u8]) {
        let mut read = vec![0; expected.len()];
        let outcome = self.0.read_exact(&mut read);
        assert!(
            outcome.is_ok() && read == expected,
            "{outcome:?}: {} instead of {}",
            read.escape_ascii(),
            expected.escape_ascii()
        );
    }

    #[track_caller]
    fn expect_end(&mut self) {
        let mut rest = Vec::new();
        // The kernel may report the end as an error, if bytes were in flight.
        let _ = self.0.read_to_end(&mut rest);
        assert_eq!(rest, b"");
    }

    fn expect_silence(&mut self) -> Result<()> {
        self.0.set_nonblocking(true)?;
        let outcome = self.0.read(&mut [0]).map_err(|error| error.kind());
        self.0.set_nonblocking(false)?;
        assert_eq!(outcome, Err(std::io::ErrorKind::WouldBlock));
        Ok(())
    }
}

#[test]
fn without_rules_it_passes_on_and_counts() -> Result<()> {
    let redis = Redis::options().password("s3cret").start()?;
    let proxy = RedisProxy::before(&redis)?;
    assert_eq!(proxy.url(), format!("redis://:s3cret@127.0.0.1:{}/0", proxy.port()));
    assert_eq!(proxy.command(&["set", "key", "value"])?, "OK");
    assert_eq!(redis.command(&["get", "key"])?, "value");
    assert_eq!((proxy.count("auth"), proxy.count("set"), proxy.count("get")), (1, 1, 0));

    // A RESP3 value larger than one read.
    let large = "x".repeat(300_000);
    let mut client = Client::connect(&proxy)?;
    client.send(&["HELLO 3 AUTH default s3cret"])?;
    proxy.await_count("hello", 1)?;
    let mut greeting = [0; 4];
    client.0.read_exact(&mut greeting)?;
    assert_eq!(&greeting[..1], b"%");
    drop(client);
    let mut client = Client::connect(&proxy)?;
    client.send(&["AUTH s3cret", &format!("SET large {large}"), "GET large", "PING"])?;
    client.expect(format!("+OK\r\n+OK\r\n$300000\r\n{large}\r\n+PONG\r\n").as_bytes());

    redis.kill9();
    client.expect_end();
    redis.restart()?;
    assert_eq!(proxy.command(&["get", "key"])?, "value");
    proxy.cut_all();
    assert_eq!(proxy.command(&["get", "key"])?, "value");
    Ok(())
}

#[test]
fn it_answers_in_place_of_the_server_in_order() -> Result<()> {
    let redis = Redis::start()?;
    let proxy = RedisProxy::before(&redis)?;
    for state in states::ALL {
        let rule = proxy.add(Rule::on("incr").error(state));
        let error = proxy.command(&["incr", "n"]).expect_err("the rule says so").to_string();
        assert!(error.contains(state), "{error}");
        assert_eq!(rule.hits(), 1);
    }
    assert_eq!(redis.command(&["exists", "n"])?, "0");

    proxy.add(Rule::on("incr").after(1).times(2).error(states::LOADING));
    proxy.add(Rule::on("client setname").error(states::BUSY));
    proxy.add(Rule::on("get").containing("lock-7").bytes("$-1\r\n"));
    let mut client = Client::connect(&proxy)?;
    client.send(&["SET lock-7 a", "INCR n", "INCR n", "GET n", "INCR n", "INCR n", "CLIENT ID"])?;
    client.send(&["CLIENT SETNAME a", "GET lock-6", "GET lock-7", "GET lock-7", "PING"])?;
    let loading = format!("-{}\r\n", states::LOADING);
    client.expect(format!("+OK\r\n:1\r\n{loading}$1\r\n1\r\n{loading}:2\r\n:").as_bytes());
    let mut id = [0];
    while id != *b"\n" {
        client.0.read_exact(&mut id)?;
    }
    client.expect(format!("-{}\r\n$-1\r\n$-1\r\n$1\r\na\r\n+PONG\r\n", states::BUSY).as_bytes());
    Ok(())
}

#[test]
fn an_answer_is_lost_and_the_effect_is_there() -> Result<()> {
    let redis = Redis::start()?;
    let proxy = RedisProxy::before(&redis)?;
    let cut = proxy.add(Rule::on("incr").cut().after_effect());
    let mut client = Client::connect(&proxy)?;
    client.send(&["PING", "INCR n"])?;
    client.expect(b"+PONG\r\n");
    client.expect_end();
    cut.await_hits(1)?;
    assert_eq!(redis.command(&["get", "n"])?, "1");

    proxy.add(Rule::on("incr").cut());
    let mut client = Client::connect(&proxy)?;
    client.send(&["INCR n"])?;
    client.expect_end();
    assert_eq!(redis.command(&["get", "n"])?, "1");

    proxy.add(Rule::on("incr").error(states::READONLY).after_effect());
    assert!(proxy.command(&["incr", "n"]).is_err());
    assert_eq!(redis.command(&["get", "n"])?, "2");

    let silent = proxy.add(Rule::on("*").silence());
    let mut client = Client::connect(&proxy)?;
    client.send(&["INCR n", "PING"])?;
    silent.await_hits(1)?;
    client.expect_silence()?;
    silent.end();
    client.expect_end();
    Ok(())
}

#[test]
fn a_reply_is_held_back_until_it_is_released() -> Result<()> {
    let redis = Redis::start()?;
    let proxy = RedisProxy::before(&redis)?;
    for (hello, name) in [("PING", "ping"), ("HELLO 3", "hello")] {
        let held = proxy.add(Rule::on("subscribe").hold_reply());
        let mut client = Client::connect(&proxy)?;
        client.send(&[hello])?;
        proxy.await_count(name, 1)?;
        client.send(&["SUBSCRIBE first second"])?;
        held.await_hits(1)?;
        // The server counts the subscriber, so it has executed the request.
        until("the message to be sent", || match redis.command(&["publish", "first", "hint"])?.as_str() {
            "1" => Ok(()),
            n => Err(Error::new(format!("to {n}"))),
        })?;
        held.release();
        let kind = if hello == "PING" { "*" } else { ">" };
        let mut read = Vec::new();
        let expected = format!(
            "{kind}3\r\n$9\r\nsubscribe\r\n$5\r\nfirst\r\n:1\r\n\
             {kind}3\r\n$9\r\nsubscribe\r\n$6\r\nsecond\r\n:2\r\n\
             {kind}3\r\n$7\r\nmessage\r\n$5\r\nfirst\r\n$4\r\nhint\r\n"
        );
        while !read.ends_with(expected.as_bytes()) {
            let mut byte = [0];
            client.0.read_exact(&mut byte)?;
            read.push(byte[0]);
        }
        // The other commands are still in order.
        let refused = proxy.add(Rule::on("unsubscribe").error(states::BUSY));
        client.send(&["UNSUBSCRIBE first", "UNSUBSCRIBE second", "PING"])?;
        client.expect(
            format!("-{}\r\n{kind}3\r\n$11\r\nunsubscribe\r\n$6\r\nsecond\r\n:1\r\n", states::BUSY)
                .as_bytes(),
        );
        client.expect(if hello == "PING" { b"*2\r\n$4\r\npong\r\n$0\r\n\r\n" } else { b"+PONG\r\n" });
        assert_eq!(refused.hits(), 1);
    }
    Ok(())
}

#[test]
fn a_request_is_held_back_and_the_server_gets_it_after_its_client_has_gone() -> Result<()> {
    let redis = Redis::start()?;
    let proxy = RedisProxy::before(&redis)?;
    let held = proxy.add(Rule::on("set").hold_request());
    let mut client = Client::connect(&proxy)?;
    client.send(&["SET key ghost"])?;
    held.await_hits(1)?;
    drop(client);
    assert_eq!(redis.command(&["exists", "key"])?, "0");
    held.release();
    until("the ghost", || match redis.command(&["get", "key"])?.as_str() {
        "ghost" => Ok(()),
        other => Err(Error::new(other)),
    })
}

#[test]
fn it_says_what_no_server_says() -> Result<()> {
    let proxy = RedisProxy::before(shared::redis()?)?;
    for (name, bytes) in hostile::all() {
        let rule = proxy.add(Rule::on("get").bytes(bytes.clone()));
        let mut client = Client::connect(&proxy)?;
        client.send(&["PING", "GET what", "PING"])?;
        client.expect(b"+PONG\r\n");
        client.expect(&bytes);
        client.expect(b"+PONG\r\n");
        assert_eq!(rule.hits(), 1, "{name}");
    }
    Ok(())
}

#[test]
fn drivers_cannot_tell_it_from_the_server() -> Result<()> {
    let proxy = RedisProxy::before(shared::redis()?)?;
    let ttl = std::time::Duration::from_secs(600);
    for package in interop::ALL {
        let client = package.start(&proxy.url())?;
        let name = format!("through-proxy-{}", package.name);
        assert!(client.acquire(&name, ttl)? && client.release()?, "{}", package.name);
        let loading = proxy.add(Rule::on("*").containing(name.as_str()).error(states::READONLY));
        let error = client.acquire(&name, ttl).expect_err("the rule says so").to_string();
        assert!(loading.hits() == 1 && error.contains("replica"), "{}: {error}", package.name);
    }
    Ok(())
}

#[test]
fn what_it_holds_back_ends_with_it() -> Result<()> {
    let proxy = RedisProxy::before(shared::redis()?)?;
    proxy.add(Rule::on("ping").hold_reply());
    let mut client = Client::connect(&proxy)?;
    client.send(&["PING"])?;
    proxy.await_count("ping", 1)?;
    let port = proxy.port();
    drop(proxy);
    let mut rest = Vec::new();
    let _ = client.0.read_to_end(&mut rest);
    assert!(rest.is_empty() || rest == b"+PONG\r\n", "{}", rest.escape_ascii());
    assert!(TcpStream::connect(("127.0.0.1", port)).is_err());
    Ok(())
}
