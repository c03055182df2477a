use std::net::{IpAddr, Ipv4Addr};

use super::super::hosts::Place;
use super::*;
use crate::error::ErrorKind;

fn read(url: &str) -> Config {
    Config::new(url).unwrap_or_else(|e| panic!("{url}: {e}"))
}

fn error(url: &str) -> Error {
    match Config::new(url) {
        Ok(config) => panic!("{url} was accepted as {config}"),
        Err(error) => error,
    }
}

fn tcp(name: &str, port: u16) -> Host {
    Host { place: Place::Tcp { name: name.into(), address: name.parse().ok() }, port }
}

fn at(name: &str, address: [u8; 4], port: u16) -> Host {
    let address = Some(IpAddr::V4(Ipv4Addr::from(address)));
    Host { place: Place::Tcp { name: name.into(), address }, port }
}

fn unix(directory: &str, port: u16) -> Host {
    Host { place: Place::Unix(directory.into()), port }
}

#[test]
fn hosts_are_read_as_libpq_reads_them() {
    let here = Host { place: Place::Default, port: 5432 };
    let cases = [
        ("postgres://", vec![here.clone()], "postgres://"),
        ("postgresql:///db", vec![here.clone()], "postgres:///db"),
        ("postgres://h", vec![tcp("h", 5432)], "postgres://h"),
        ("postgres://h:5432/db", vec![tcp("h", 5432)], "postgres://h/db"),
        ("postgres://u:p@h:1/db?", vec![tcp("h", 1)], "postgres://h:1/db"),
        ("postgres://a,b:2,c/db", vec![tcp("a", 5432), tcp("b", 2), tcp("c", 5432)], "postgres://a,b:2,c/db"),
        ("postgres://10.0.0.1:7/", vec![tcp("10.0.0.1", 7)], "postgres://10.0.0.1:7"),
        (
            "postgres://[::1],[fe80::1]:9/",
            vec![tcp("::1", 5432), tcp("fe80::1", 9)],
            "postgres://[::1],[fe80::1]:9",
        ),
        ("postgres://%2Frun%2Fpg:6/db", vec![unix("/run/pg", 6)], "postgres://%2Frun%2Fpg:6/db"),
        ("postgres:///db?host=/run/pg&port=6", vec![unix("/run/pg", 6)], "postgres://%2Frun%2Fpg:6/db"),
        (
            "postgres:///db?host=a,/run/pg",
            vec![tcp("a", 5432), unix("/run/pg", 5432)],
            "postgres://a,%2Frun%2Fpg/db",
        ),
        ("postgres://a,b/db?port=7", vec![tcp("a", 7), tcp("b", 7)], "postgres://a:7,b:7/db"),
        ("postgres://a,b/db?port=7,8", vec![tcp("a", 7), tcp("b", 8)], "postgres://a:7,b:8/db"),
        ("postgres://a,b/db?port=,8", vec![tcp("a", 5432), tcp("b", 8)], "postgres://a,b:8/db"),
        ("postgres://a/db?hostaddr=10.0.0.1", vec![at("a", [10, 0, 0, 1], 5432)], "postgres://a/db"),
        (
            "postgres:///db?hostaddr=10.0.0.1",
            vec![at("10.0.0.1", [10, 0, 0, 1], 5432)],
            "postgres://10.0.0.1/db",
        ),
        (
            "postgres://a,b?hostaddr=10.0.0.1,",
            vec![at("a", [10, 0, 0, 1], 5432), tcp("b", 5432)],
            "postgres://a,b",
        ),
        ("postgres://,b", vec![here, tcp("b", 5432)], "postgres://,b"),
        ("postgres://h/a%2Fb%20c", vec![tcp("h", 5432)], "postgres://h/…"),
        ("postgres://h?dbname=db", vec![tcp("h", 5432)], "postgres://h/db"),
    ];
    for (url, hosts, shown) in cases {
        let config = read(url);
        assert_eq!(config.hosts, hosts, "{url}");
        assert_eq!(config.to_string(), shown, "{url}");
    }
}

#[test]
fn the_options_of_leasehold_have_defaults_and_are_read() {
    let config = read("postgres://h");
    assert_eq!(
        (config.space.as_str(), config.schema.as_str(), config.table.as_str()),
        ("", "public", "leasehold")
    );
    assert_eq!((config.notify, config.prepared), (Choice::Auto, Choice::Auto));
    assert_eq!((config.limit, config.shuffle), (LIMIT, false));
    let config = read("postgres://h?prefix=shop:&schema=Locks_1&table=t$&notify=off&prepared=on");
    assert_eq!(
        (config.space.as_str(), config.schema.as_str(), config.table.as_str()),
        ("shop:", "Locks_1", "t$")
    );
    assert_eq!((config.notify, config.prepared), (Choice::Off, Choice::On));
}

#[test]
fn the_login_is_read() {
    let login = read("postgres://us%40er:p%3A%2F%40s%3Fs@h/db").login;
    assert_eq!((login.user.as_deref(), login.password.as_deref()), (Some("us@er"), Some("p:/@s?s")));
    let login = read("postgres://u:p@h/db?user=v&password=q&dbname=e&passfile=/f").login;
    assert_eq!((login.user.as_deref(), login.password.as_deref()), (Some("v"), Some("q")));
    assert_eq!((login.database.as_deref(), login.passfile), (Some("e"), Some("/f".into())));
    let login = read("postgres://u:@h").login;
    assert_eq!((login.password, login.database), (None, None));
    let login =
        read("postgres://h?options=-c%20geqo%3Doff&application_name=a&fallback_application_name=b").login;
    assert_eq!(login.options.as_deref(), Some("-c geqo=off"));
    assert_eq!((login.application.as_deref(), login.fallback_application.as_deref()), (Some("a"), Some("b")));
}

#[test]
fn sockets_and_times_are_read() {
    let secs = Duration::from_secs;
    assert_eq!(read("postgres://h?keepalives_idle=0&tcp_user_timeout=0").sockets, Sockets::default());
    let sockets = read(
        "postgres://h?keepalives=0&keepalives_idle=7&keepalives_interval=8&keepalives_count=9&tcp_user_timeout=1500",
    )
    .sockets;
    let user_timeout = Some(Duration::from_millis(1500));
    let expected = Sockets { keepalives: false, idle: secs(7), interval: secs(8), count: 9, user_timeout };
    assert_eq!(sockets, expected);
    assert_eq!(read("postgres://h?connect_timeout=7").limit, secs(7));
    assert_eq!(read("postgres://h?connect_timeout=0").limit, LIMIT);
}

#[test]
fn tls_is_read() {
    let modes = [
        ("disable", Mode::Disable),
        ("allow", Mode::Allow),
        ("prefer", Mode::Prefer),
        ("require", Mode::Require),
        ("verify-ca", Mode::VerifyCa),
        ("verify-full", Mode::VerifyFull),
    ];
    for (text, mode) in modes {
        assert_eq!(read(&format!("postgres://h?sslmode={text}")).ssl.mode(), mode);
    }
    assert_eq!(read("postgres://h").ssl.mode(), Mode::Prefer);
    assert_eq!(read("postgres://h?sslrootcert=system").ssl.mode(), Mode::VerifyFull);
    let ssl =
        read("postgres://h?sslmode=require&sslnegotiation=direct&sslcert=c&sslkey=k&sslrootcert=r&sslsni=0")
            .ssl;
    assert!(ssl.direct && !ssl.sni && ssl.identify);
    assert_eq!((ssl.cert, ssl.key, ssl.root), (Some("c".into()), Some("k".into()), Some("r".into())));
    let ssl = read("postgres://h?ssl_min_protocol_version=TLSv1.2&ssl_max_protocol_version=TLSv1.3").ssl;
    assert_eq!((ssl.min, ssl.max), (Some(Version::Tls12), Some(Version::Tls13)));
    assert!(!read("postgres://h?sslcertmode=disable").ssl.identify);
}

#[test]
fn values_without_effect_are_accepted() {
    for option in [
        "target_session_attrs=any",
        "target_session_attrs=read-write",
        "target_session_attrs=primary",
        "client_encoding=utf8",
        "gssencmode=disable",
        "gssencmode=prefer",
        "gssdelegation=0",
        "sslcompression=0",
        "sslcrl=",
        "requirepeer=",
        "replication=false",
        "min_protocol_version=3.0",
        "max_protocol_version=latest",
        "load_balance_hosts=disable",
        "password=",
    ] {
        read(&format!("postgres://h/d?{option}"));
    }
    assert!(read("postgres://h?load_balance_hosts=random").shuffle);
}

#[test]
fn unsupported_options_are_refused_with_an_alternative() {
    for (option, text) in [
        ("service=x", "service file"),
        ("gssencmode=require", "sslmode"),
        ("krbsrvname=postgres", "Kerberos"),
        ("gsslib=gssapi", "Kerberos"),
        ("sslpassword=S3CRET", "decrypt"),
        ("sslcrl=/x", "revoked"),
        ("requirepeer=postgres", "socket"),
        ("require_auth=scram-sha-256", "channel_binding=require"),
        ("oauth_client_secret=S3CRET", "OAuth"),
        ("scram_client_key=S3CRET", "SCRAM"),
        ("sslcompression=1", "compressed"),
        ("ssl=true", "sslmode=require"),
    ] {
        let error = error(&format!("postgres://h/d?{option}"));
        let option = option.split('=').next().expect("a name");
        assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
        let shown = error.to_string();
        assert!(shown.contains(text) && shown.ends_with(&format!("option=`{option}`")), "{shown}");
        assert!(!shown.contains("S3CRET"), "{shown}");
    }
}

#[test]
fn wrong_values_name_the_option_and_what_is_valid() {
    for (option, valid) in [
        ("prefix", "256 bytes"),
        ("schema", "at most 63"),
        ("table", "at most 45"),
        ("notify", "auto, on, off"),
        ("prepared", "auto, on, off"),
        ("hostaddr", "an IP address"),
        ("port", "1 to 65535"),
        ("channel_binding", "disable, prefer, require"),
        ("connect_timeout", "0 to 3600 seconds"),
        ("client_encoding", "UTF8"),
        ("keepalives", "0 to 1"),
        ("keepalives_idle", "0 to 32767 seconds"),
        ("keepalives_interval", "0 to 32767 seconds"),
        ("keepalives_count", "0 to 127"),
        ("tcp_user_timeout", "0 to 3600000 milliseconds"),
        ("sslmode", "disable, allow, prefer, require, verify-ca, verify-full"),
        ("sslnegotiation", "postgres, direct"),
        ("sslcertmode", "disable, allow"),
        ("sslsni", "0, 1"),
        ("ssl_min_protocol_version", "TLSv1.2, TLSv1.3"),
        ("ssl_max_protocol_version", "TLSv1.2, TLSv1.3"),
        ("target_session_attrs", "read-write, primary, any"),
        ("load_balance_hosts", "disable, random"),
        ("min_protocol_version", "3.0"),
        ("max_protocol_version", "3.0, 3.2, latest"),
        ("replication", "false"),
    ] {
        let value = "-x".repeat(129);
        let error = error(&format!("postgres://h/d?{option}={value}"));
        assert_eq!(error.kind(), ErrorKind::Invalid);
        let shown = error.to_string();
        assert!(shown.contains(&format!("option=`{option}`")) && !shown.contains(&value), "{shown}");
        assert!(shown.contains(&format!("valid=`{valid}")) || shown.contains(valid), "{option}: {shown}");
    }
    for attrs in ["read-only", "standby", "prefer-standby"] {
        let shown = error(&format!("postgres://h?target_session_attrs={attrs}")).to_string();
        assert!(shown.contains("only a primary"), "{shown}");
    }
}

#[test]
fn contradictory_options_are_refused() {
    for (url, text) in [
        ("postgres://a,b?port=1,2,3", "as many ports"),
        ("postgres://a?port=1,2", "as many ports"),
        ("postgres://a,b?hostaddr=10.0.0.1", "as many addresses"),
        ("postgres://h?port=0", "1 to 65535"),
        ("postgres://h?host=@x", "abstract"),
        ("postgres://h?sslrootcert=system&sslmode=require", "verify-full"),
        ("postgres://h?sslnegotiation=direct", "sslmode=require"),
        ("postgres://h?ssl_min_protocol_version=TLSv1.3&ssl_max_protocol_version=TLSv1.2", "later than"),
        ("postgres://h?dbname=postgres://other", "no URL"),
        ("postgres://h?nonsense=1", "unknown option in the URL"),
        ("postgres://h?host=u:x@h", "option=`host`"),
        ("postgres://h?host=u%253Ax%2540h&hostaddr=10.0.0.1", "option=`host`"),
        ("postgres://u%253Ax%2540h", "option=`host`"),
        ("postgres://h?table=a&table=b", "twice"),
        ("postgres://h?prefix=%00", "NUL"),
        ("postgres://h/%00", "NUL"),
        ("postgres:h", "no `//`"),
        ("mysql://h", "begins with"),
        ("", "begins with"),
    ] {
        let error = error(url);
        assert_eq!(error.kind(), ErrorKind::Invalid, "{url}");
        assert!(error.to_string().contains(text), "{url}: {error}");
    }
}

#[test]
fn identifiers_are_checked_and_never_cut() {
    for name in ["", "1a", "$a", "a b", "a\"b", "a;b", "a.b", "é", r#"x"; drop table y; --"#, "a\\"] {
        let name = encode(name);
        for option in ["schema", "table"] {
            let url = format!("postgres://h?{option}={name}");
            assert!(error(&url).to_string().contains("A-Z a-z 0-9 _ $"), "{url}");
        }
    }
    read(&format!("postgres://h?schema={}&table={}", "a".repeat(63), "b".repeat(45)));
    assert_eq!(error(&format!("postgres://h?schema={}", "a".repeat(64))).kind(), ErrorKind::Invalid);
    assert_eq!(error(&format!("postgres://h?table={}", "a".repeat(46))).kind(), ErrorKind::Invalid);
}

fn encode(text: &str) -> impl fmt::Display {
    percent_encoding::utf8_percent_encode(text, percent_encoding::NON_ALPHANUMERIC)
}

#[test]
fn no_secret_is_shown() {
    const CANARY: &str = "S3CRET";
    for url in [
        format!("postgres://{CANARY}:{CANARY}@h/db"),
        format!("postgres://h/db?user={CANARY}&password={CANARY}"),
        format!("postgres://h/db?options={CANARY}&passfile={CANARY}&application_name={CANARY}"),
    ] {
        let config = read(&url);
        let shown = format!("{config} {config:?} {config:#?}");
        assert!(!shown.contains(CANARY), "{shown}");
    }
    // Passwords with characters that break the URL.
    for url in [
        format!("postgres://user:12/{CANARY}@h/db"),
        format!("postgres://user:pa:{CANARY}@h/db"),
        format!("postgres://user:p@{CANARY}@h/db"),
        format!("postgres://us/er:{CANARY}@h/db"),
        format!("postgres://user:{CANARY}%zz%ff@h/db"),
        format!("postgres://user:{CANARY}"),
        format!("postgres://user:{CANARY}?x@h/db"),
        format!("postgres://user:12?{CANARY}@h/db"),
        format!("postgres://user:12?x={CANARY}@h/db"),
        format!("postgres://user:12?{CANARY}=x@h/db"),
        format!("postgres://user:12?{CANARY}&{CANARY}=x@h/db"),
        format!("postgres:{CANARY}@h"),
        format!("postgres://h/db?password={CANARY}&password={CANARY}"),
        format!("postgres://h/db?password={CANARY}%00"),
        format!("postgres://u:{CANARY}%00@h/db"),
        format!("postgres://h/db?sslpassword={CANARY}"),
        format!("postgres://h:{CANARY}/db"),
        format!("postgres://[{CANARY}]/db"),
        format!("{CANARY}://h"),
    ] {
        let error = error(&url);
        assert!(!format!("{error} {error:?}").contains(CANARY), "{url}: {error}");
    }
}
