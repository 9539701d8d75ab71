//! Reading an answer of HTTP/1.1, as `serve` and programs like it send them: a head, and as many bytes as it says. Pure.

/// An answer of ours is a few hundred bytes; a page of metrics, which is asked for too, may have some hundred thousand.
pub const BYTES_MAX: usize = 4 << 20;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    pub status: u16,
    /// `name=value` of the first cookie that it brings.
    pub cookie: Option<String>,
    pub body: String,
}

/// The answer at the beginning of `bytes`, with how many bytes it takes; `None` while it is not whole.
///
/// # Errors
/// What makes it no answer.
pub fn read(bytes: &[u8]) -> Result<Option<(Answer, usize)>, String> {
    let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") else {
        return if bytes.len() > BYTES_MAX { Err("a head without an end".into()) } else { Ok(None) };
    };
    let head = std::str::from_utf8(&bytes[..end]).map_err(|_| "a head that is no text")?;
    let mut lines = head.split("\r\n");
    let status = lines.next().and_then(|line| line.strip_prefix("HTTP/1.1 "));
    let status = status.and_then(|rest| rest.get(..3)?.parse().ok()).ok_or_else(|| format!("no answer of HTTP/1.1: {:?}", head.get(..40).unwrap_or(head)))?;
    let headers: Vec<(&str, &str)> = lines.filter_map(|line| line.split_once(':')).collect();
    let header = |wanted: &str| headers.iter().find(|(name, _)| name.eq_ignore_ascii_case(wanted)).map(|(_, value)| value.trim());
    let cookie = header("set-cookie").and_then(|value| value.split(';').next()).map(str::to_owned);
    let length: usize = header("content-length").and_then(|value| value.parse().ok()).ok_or("an answer without its length")?;
    if length > BYTES_MAX {
        return Err(format!("a body of {length} bytes"));
    }
    let begin = end + 4;
    let Some(body) = bytes.get(begin..begin + length) else { return Ok(None) };
    Ok(Some((Answer { status, cookie, body: String::from_utf8_lossy(body).into_owned() }, begin + length)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_read_once_it_is_whole() {
        let whole = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nSet-Cookie: a=b; Path=/\r\n\r\nhello";
        for cut in 0..whole.len() {
            assert_eq!(read(&whole[..cut]), Ok(None), "cut at {cut}");
        }
        let answer = Answer { status: 200, cookie: Some("a=b".into()), body: "hello".into() };
        assert_eq!(read(whole), Ok(Some((answer.clone(), whole.len()))));
        assert_eq!(read(&[whole, &b"HTTP/1.1 "[..]].concat()), Ok(Some((answer, whole.len()))), "the next one is left alone");
    }

    #[test]
    fn what_is_no_answer_is_told() {
        for (bytes, why) in [
            (&b"SSH-2.0-x\r\n\r\n"[..], "no answer of HTTP/1.1"),
            (b"HTTP/1.1 2\r\ncontent-length: 1\r\n\r\nx", "no answer of HTTP/1.1"),
            (b"HTTP/1.1 200 OK\r\n\r\n", "without its length"),
            (b"HTTP/1.1 200 OK\r\ncontent-length: -1\r\n\r\n", "without its length"),
            (b"HTTP/1.1 200 OK\r\ncontent-length: 9999999\r\n\r\n", "a body of 9999999 bytes"),
            (b"HTTP/1.1 \xff\r\n\r\n", "no text"),
            (&[b'x'; BYTES_MAX + 1], "without an end"),
        ] {
            assert!(read(bytes).unwrap_err().contains(why), "{why}");
        }
    }
}
