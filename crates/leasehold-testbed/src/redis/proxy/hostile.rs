//! Replies that no Redis sends, to break a client with.

/// Returns each reply with its name.
#[must_use]
pub fn all() -> Vec<(&'static str, Vec<u8>)> {
    vec![
        ("a string of 2 GB that does not come", b"$2147483647\r\nabc".to_vec()),
        ("a string of 8 EB", b"$9223372036854775807\r\nabc".to_vec()),
        ("an array of 2 billion", b"*2147483647\r\n:1\r\n".to_vec()),
        ("a map of 9 trillion", b"%9223372036854775807\r\n+a\r\n:1\r\n".to_vec()),
        ("arrays in arrays", b"*1\r\n".repeat(100_000)),
        ("a string of negative length", b"$-7\r\nabc\r\n".to_vec()),
        ("an array of negative length", b"*-7\r\n".to_vec()),
        ("a length that is no number", b"$abc\r\nabc\r\n".to_vec()),
        ("a number that is too large", b":99999999999999999999\r\n".to_vec()),
        ("a number that is none", b":1x\r\n".to_vec()),
        ("another type: a number", b":1\r\n".to_vec()),
        ("another type: a line", b"+OK\r\n".to_vec()),
        ("another type: a string", b"$3\r\nabc\r\n".to_vec()),
        ("another type: nothing", b"_\r\n".to_vec()),
        ("another type: an empty array", b"*0\r\n".to_vec()),
        ("another type: an array of nothing", b"*3\r\n_\r\n_\r\n_\r\n".to_vec()),
        ("another type: a map", b"%1\r\n+a\r\n:1\r\n".to_vec()),
        ("an array with an error in it", b"*2\r\n:1\r\n-ERR in between\r\n".to_vec()),
        ("an error that is empty", b"-\r\n".to_vec()),
        ("an error of bytes that are no text", b"-\xff\xfe\x00\r\n".to_vec()),
        ("a kind that there is not", b"?5\r\n".to_vec()),
        ("no RESP at all", b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec()),
        ("zeros", vec![0; 4096]),
        ("a line without an end", vec![b'+'; 1 << 20]),
    ]
}
