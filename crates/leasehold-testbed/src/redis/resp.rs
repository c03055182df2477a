//! The protocol (RESP2 and RESP3), as far as a proxy has to know it: the ends and kinds of requests and replies.

/// The deepest nesting of a reply. Deeper ones are refused.
const DEPTH: usize = 128;

/// The words of a request, and its length.
type Request = (Vec<Vec<u8>>, usize);

/// Returns the words of the request at the start of `bytes`, and its length. `None` if it is not complete yet.
///
/// # Errors
///
/// If there is no request.
pub(super) fn request(bytes: &[u8]) -> Result<Option<Request>, NotResp> {
    let Some((line, mut at)) = line(bytes, 0) else { return Ok(None) };
    let Some(count) = line.strip_prefix(b"*") else {
        // The inline form, which people type.
        let words = line.split(|byte| *byte == b' ').filter(|word| !word.is_empty());
        return Ok(Some((words.map(<[u8]>::to_vec).collect(), at)));
    };
    let mut words = Vec::new();
    for _ in 0..number(count)? {
        let Some((head, start)) = self::line(bytes, at) else { return Ok(None) };
        let length =
            usize::try_from(number(head.strip_prefix(b"$").ok_or(NotResp)?)?).map_err(|_| NotResp)?;
        if bytes.len() < start + length + 2 {
            return Ok(None);
        }
        words.push(bytes[start..start + length].to_vec());
        at = start + length + 2;
    }
    Ok(Some((words, at)))
}

/// Returns the length of the reply at the start of `bytes`. `None` if it is not complete yet.
///
/// # Errors
///
/// If there is no reply.
pub(super) fn reply(bytes: &[u8]) -> Result<Option<usize>, NotResp> {
    end_of(bytes, 0, DEPTH)
}

/// Returns the kind of a message that may have been pushed: `message`, `subscribe` or `invalidate`.
pub(super) fn kind(reply: &[u8]) -> Option<&[u8]> {
    if !matches!(reply.first(), Some(b'>' | b'*')) {
        return None;
    }
    let (_, at) = line(reply, 0)?;
    let (head, start) = line(reply, at)?;
    let length = usize::try_from(number(head.strip_prefix(b"$")?).ok()?).ok()?;
    reply.get(start..start + length)
}

/// The error for bytes that are neither a request nor a reply.
#[derive(Debug)]
pub(super) struct NotResp;

fn end_of(bytes: &[u8], at: usize, depth: usize) -> Result<Option<usize>, NotResp> {
    let Some((line, after)) = line(bytes, at) else { return Ok(None) };
    let (Some(kind), Some(depth)) = (line.first(), depth.checked_sub(1)) else { return Err(NotResp) };
    let rest = &line[1..];
    let parts = match kind {
        b'+' | b'-' | b':' | b',' | b'#' | b'_' | b'(' => return Ok(Some(after)),
        b'$' | b'!' | b'=' => {
            // A negative length stands for null.
            let Ok(length) = usize::try_from(number(rest)?) else { return Ok(Some(after)) };
            let end = after + length + 2;
            return Ok((end <= bytes.len()).then_some(end));
        }
        b'*' | b'~' | b'>' => number(rest)?,
        b'%' => number(rest)? * 2,
        // An attribute precedes the reply itself.
        b'|' => number(rest)? * 2 + 1,
        _ => return Err(NotResp),
    };
    let mut at = after;
    for _ in 0..parts {
        match end_of(bytes, at, depth)? {
            Some(end) => at = end,
            None => return Ok(None),
        }
    }
    Ok(Some(at))
}

/// Returns the line that starts at `at`, and the start of the next one.
fn line(bytes: &[u8], at: usize) -> Option<(&[u8], usize)> {
    let rest = bytes.get(at..)?;
    let length = rest.windows(2).position(|two| two == b"\r\n")?;
    Some((&rest[..length], at + length + 2))
}

fn number(text: &[u8]) -> Result<i64, NotResp> {
    std::str::from_utf8(text).ok().and_then(|text| text.parse().ok()).ok_or(NotResp)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_read_once_it_is_complete() {
        let bytes = b"*2\r\n$3\r\nGET\r\n$2\r\n\r\n\r\nPING now\r\n";
        for cut in 0..21 {
            assert!(request(&bytes[..cut]).expect("it may be one").is_none(), "{cut}");
        }
        let (words, length) = request(bytes).expect("it is one").expect("complete");
        assert_eq!((words, length), (vec![b"GET".to_vec(), b"\r\n".to_vec()], 21));
        let (words, _) = request(&bytes[21..]).expect("it is one").expect("complete");
        assert_eq!(words, [b"PING".to_vec(), b"now".to_vec()]);
        request(b"*1\r\n:1\r\n").expect_err("words are strings");
    }

    #[test]
    fn a_reply_is_read_once_it_is_complete() {
        for complete in [
            &b"+OK\r\n"[..],
            b"$-1\r\n",
            b"$2\r\n\r\n\r\n",
            b"*2\r\n*1\r\n:1\r\n_\r\n",
            b"%1\r\n+a\r\n#t\r\n",
            b"|1\r\n+a\r\n:1\r\n~1\r\n,1.5\r\n",
            b">2\r\n$7\r\nmessage\r\n=7\r\ntxt:abc\r\n",
        ] {
            for cut in 0..complete.len() {
                assert_eq!(reply(&complete[..cut]).expect("it may be one"), None);
            }
            assert_eq!(reply(complete).expect("it is one"), Some(complete.len()));
        }
        reply(b"?\r\n").expect_err("it is none");
        reply(&b"*1\r\n".repeat(DEPTH + 1)).expect_err("it is nested too deeply");
        assert_eq!(kind(b">2\r\n$7\r\nmessage\r\n:1\r\n"), Some(&b"message"[..]));
        assert_eq!(kind(b":1\r\n"), None);
    }
}
