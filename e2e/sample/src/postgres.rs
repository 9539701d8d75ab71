//! One question to a real PostgreSQL, in its own protocol (version 3, simple query, no password): enough for the sample to
//! have a database behind the mesh, where the server speaks only after its client did.

use std::str::FromStr;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;

use crate::books::Ratings;

const TIMEOUT: Duration = Duration::from_secs(3);
/// The table has two rows; nothing that a server of ours says is longer.
const MESSAGE_BYTES_MAX: usize = 64 << 10;
/// Version 3.0 of the protocol.
const VERSION: i32 = 3 << 16;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Database {
    user: String,
    authority: String,
    name: String,
}

impl FromStr for Database {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parts = text
            .strip_prefix("postgres://")
            .and_then(|rest| rest.split_once('@'))
            .and_then(|(user, rest)| rest.split_once('/').map(|(authority, name)| (user, authority, name)));
        match parts {
            Some((user, authority, name)) if ![user, authority, name].contains(&"") => {
                Ok(Self { user: user.into(), authority: authority.into(), name: name.into() })
            }
            _ => Err(format!("{text:?} is not postgres://USER@HOST:PORT/DATABASE")),
        }
    }
}

impl Database {
    pub async fn ratings(&self) -> anyhow::Result<Ratings> {
        tokio::time::timeout(TIMEOUT, self.query("SELECT reader, stars FROM ratings"))
            .await
            .with_context(|| format!("{} did not answer within {TIMEOUT:?}", self.authority))?
            .and_then(|rows| ratings(&rows))
    }

    async fn query(&self, sql: &str) -> anyhow::Result<Vec<Vec<String>>> {
        let stream = TcpStream::connect(&self.authority).await.with_context(|| format!("cannot connect to {}", self.authority))?;
        let mut stream = BufReader::new(stream);
        stream.write_all(&self.hello()).await?;
        let mut rows = Vec::new();
        let mut asked = false;
        loop {
            let (kind, body) = message(&mut stream).await?;
            match kind {
                b'D' => rows.push(row(&body)?),
                b'E' => bail!("{} said: {}", self.authority, complaint(&body)),
                // Authentication: 0 is "none needed", which is all that this client can.
                b'R' => ensure!(body.starts_with(&[0; 4]), "{} asks for a password, and this sample has none", self.authority),
                b'Z' if asked => return Ok(rows),
                b'Z' => {
                    stream.write_all(&framed(b'Q', &[sql.as_bytes(), b"\0"].concat())).await?;
                    asked = true;
                }
                // Parameters, descriptions, notices: nothing to do.
                _ => {}
            }
        }
    }

    /// The first message of a client; the only one without a letter.
    fn hello(&self) -> Vec<u8> {
        let words = ["user", &self.user, "database", &self.name].map(|word| format!("{word}\0")).concat();
        let body = [&VERSION.to_be_bytes(), words.as_bytes(), b"\0"].concat();
        framed(0, &body)[1..].to_vec()
    }
}

/// A letter, the length with itself, the body.
fn framed(kind: u8, body: &[u8]) -> Vec<u8> {
    let length = i32::try_from(body.len() + 4).expect("a message of ours is short");
    [&[kind][..], &length.to_be_bytes(), body].concat()
}

async fn message(stream: &mut BufReader<TcpStream>) -> anyhow::Result<(u8, Vec<u8>)> {
    let kind = stream.read_u8().await.context("the database closed the connection")?;
    let length = usize::try_from(stream.read_i32().await?).ok().and_then(|length| length.checked_sub(4));
    let length = length.filter(|length| *length <= MESSAGE_BYTES_MAX).context("this is not a PostgreSQL server")?;
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await?;
    Ok((kind, body))
}

/// DataRow: the number of columns, then each with its length, -1 for NULL.
fn row(body: &[u8]) -> anyhow::Result<Vec<String>> {
    let broken = "a row that ends too early";
    let (count, mut rest) = body.split_first_chunk::<2>().context(broken)?;
    let mut columns = Vec::new();
    for _ in 0..u16::from_be_bytes(*count) {
        let (length, after) = rest.split_first_chunk::<4>().context(broken)?;
        let length = usize::try_from(i32::from_be_bytes(*length)).unwrap_or(0);
        let (column, after) = after.split_at_checked(length).context(broken)?;
        columns.push(String::from_utf8_lossy(column).into_owned());
        rest = after;
    }
    Ok(columns)
}

/// ErrorResponse: fields of a letter and a text; `M` is for people.
fn complaint(body: &[u8]) -> String {
    let mut fields = body.split(|byte| *byte == 0);
    let said = fields.find_map(|field| field.strip_prefix(b"M")).unwrap_or(b"something that is no message");
    String::from_utf8_lossy(said).into_owned()
}

fn ratings(rows: &[Vec<String>]) -> anyhow::Result<Ratings> {
    let one = |row: &Vec<String>| match row.as_slice() {
        [reader, stars] => Ok((reader.clone(), stars.parse().with_context(|| format!("{stars:?} is not a number of stars"))?)),
        _ => bail!("a row of {} columns", row.len()),
    };
    Ok(Ratings { ratings: rows.iter().map(one).collect::<anyhow::Result<_>>()? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_name_user_place_and_database() {
        let database = "postgres://bookinfo@ratings-db:5432/bookinfo".parse::<Database>().unwrap();
        assert_eq!((&*database.user, &*database.authority, &*database.name), ("bookinfo", "ratings-db:5432", "bookinfo"));
        for wrong in ["mysql://a@b/c", "postgres://b:5432/c", "postgres://@b/c", "postgres://a@b"] {
            assert!(wrong.parse::<Database>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn the_first_message_carries_version_user_and_database() {
        let hello = "postgres://u@h:1/d".parse::<Database>().unwrap().hello();
        assert_eq!(hello, b"\0\0\0\x1b\0\x03\0\0user\0u\0database\0d\0\0".to_vec());
    }

    #[test]
    fn rows_are_read_and_broken_ones_refused() {
        assert_eq!(row(b"\0\x02\0\0\0\x01a\0\0\0\x015").unwrap(), ["a", "5"]);
        assert_eq!(row(b"\0\x01\xff\xff\xff\xff").unwrap(), [""]); // NULL
        for broken in [&b""[..], b"\0\x02\0\0\0\x01a", b"\0\x01\0\0\0\x09a"] {
            assert!(row(broken).is_err(), "{broken:?}");
        }
        assert!(ratings(&[vec!["a".into(), "many".into()]]).is_err());
        assert_eq!(complaint(b"SERROR\0C42P01\0Mno such table\0\0"), "no such table");
    }
}
