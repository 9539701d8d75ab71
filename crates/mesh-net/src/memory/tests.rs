use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;

#[tokio::test]
async fn it_is_a_stream_with_two_ends() {
    let (mut a, mut b) = pair(4);
    let writing = async {
        a.write_all(b"hello, b").await.unwrap();
        a.shutdown().await.unwrap();
        a
    };
    let mut got = Vec::new();
    let (mut a, read) = tokio::join!(writing, b.read_to_end(&mut got));
    assert_eq!(read.unwrap(), 8);
    assert_eq!(got, b"hello, b");
    b.write_all(b"bye").await.unwrap();
    drop(b);
    got.clear();
    a.read_to_end(&mut got).await.unwrap();
    assert_eq!(got, b"bye", "dropping one end loses nothing that was written before");
    assert_eq!(a.write(b"x").await.unwrap_err().kind(), io::ErrorKind::BrokenPipe, "its own direction had ended");
}

#[tokio::test]
async fn dropping_with_unread_bytes_resets() {
    let (mut a, b) = pair(64);
    a.write_all(b"unread").await.unwrap();
    drop(b);
    assert_eq!(a.read(&mut [0; 8]).await.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
    assert_eq!(a.write(b"x").await.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn ending_towards_someone_who_left_is_clean() {
    let (mut a, b) = pair(64);
    drop(b);
    assert_eq!(a.read(&mut [0; 8]).await.unwrap(), 0);
    a.shutdown().await.unwrap();
}
