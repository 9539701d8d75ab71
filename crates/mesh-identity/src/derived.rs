//! Secrets that follow from a private key: whoever holds the key has them without being told, and nobody finds the key, or
//! another secret, from one of them (HKDF, RFC 5869). Pure.

use std::fmt;

use aws_lc_rs::hkdf::{HKDF_SHA256, KeyType, Prk, Salt};

use crate::pem::{self, BadPem};

/// Of 256 bits: as much as the hash gives at once.
const BYTES: usize = 32;

/// What secrets for one purpose are derived from.
#[derive(Clone, PartialEq, Eq)]
pub struct Seed([u8; BYTES]);

impl Seed {
    /// `purpose` keeps the secrets of one use apart from those of another.
    ///
    /// # Errors
    /// It is no PEM text of a private key.
    pub fn of_key(key_pem: &str, purpose: &str) -> Result<Seed, BadPem> {
        let key = pem::private_key(key_pem.as_bytes())?;
        // The key is no text: the same one in another wrapping of lines gives the same secrets.
        Ok(Seed(expand(&Salt::new(HKDF_SHA256, b"isthmus").extract(key.secret_der()), purpose)))
    }

    /// The secret for `whom`, as text.
    pub fn secret(&self, whom: &str) -> String {
        hexadecimal(&expand(&Prk::new_less_safe(HKDF_SHA256, &self.0), whom))
    }

    /// For whoever keeps it. Not for logs.
    pub fn to_text(&self) -> String {
        hexadecimal(&self.0)
    }

    /// What `to_text` wrote; `None`: it is something else.
    pub fn of_text(text: &str) -> Option<Seed> {
        let text = text.trim();
        if text.len() != 2 * BYTES || !text.bytes().all(|digit| digit.is_ascii_hexdigit()) {
            return None;
        }
        let mut bytes = [0; BYTES];
        for (at, byte) in bytes.iter_mut().enumerate() {
            *byte = u8::from_str_radix(&text[2 * at..2 * at + 2], 16).ok()?;
        }
        Some(Seed(bytes))
    }
}

impl fmt::Debug for Seed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Seed(not shown)")
    }
}

#[derive(Clone, Copy)]
struct Length;

impl KeyType for Length {
    fn len(&self) -> usize {
        BYTES
    }
}

fn expand(key: &Prk, about: &str) -> [u8; BYTES] {
    let mut bytes = [0; BYTES];
    let about = [about.as_bytes()];
    let filled = key.expand(&about, Length).and_then(|material| material.fill(&mut bytes));
    filled.expect("HKDF gives up to 255 times the length of its hash");
    bytes
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key() -> String {
        rcgen::KeyPair::generate().unwrap().serialize_pem()
    }

    #[test]
    fn the_same_key_gives_the_same_and_anything_else_gives_another() {
        let (key, other) = (key(), key());
        let of = |key: &str, purpose: &str, whom: &str| Seed::of_key(key, purpose).unwrap().secret(whom);
        let secret = of(&key, "sessions", "shop/wp");
        assert_eq!(of(&format!("\n{}\n", key.trim()), "sessions", "shop/wp"), secret);
        assert_eq!(secret.len(), 64);
        for (key, purpose, whom) in [(&other, "sessions", "shop/wp"), (&key, "session", "shop/wp"), (&key, "sessions", "shop/wp2"), (&key, "sessions", "")] {
            assert_ne!(of(key, purpose, whom), secret);
        }
        assert!(Seed::of_key("nonsense", "sessions").is_err());
    }

    #[test]
    fn a_seed_that_was_kept_is_the_same_and_is_not_shown() {
        let seed = Seed::of_key(&key(), "sessions").unwrap();
        assert_eq!(Seed::of_text(&(seed.to_text() + "\n")), Some(seed.clone()));
        assert!(!format!("{seed:?}").contains(&seed.to_text()));
        for text in ["", "00", &"g".repeat(64), &"é".repeat(32), &"+1".repeat(32)] {
            assert_eq!(Seed::of_text(text), None, "{text}");
        }
    }
}
