//! The client's side of SCRAM-SHA-256 (RFC 5802, RFC 7677).

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::{Digest as _, Sha256};

use crate::error::Context as _;
use crate::random::random;
use crate::{Error, Result};

pub(super) struct Exchange {
    password: String,
    /// The first message without its header, which is part of what is signed.
    bare: String,
    nonce: String,
}

impl Exchange {
    pub(super) fn begin(user: &str, password: &str) -> Self {
        let nonce = format!("{:016x}{:016x}", random(), random());
        Self { password: password.to_owned(), bare: format!("n={user},r={nonce}"), nonce }
    }

    pub(super) fn first(&mut self) -> String {
        format!("n,,{}", self.bare)
    }

    /// Returns the answer to the server's challenge.
    pub(super) fn last(&self, challenge: &str) -> Result<String> {
        let field = |name: &str| {
            let value = challenge.split(',').find_map(|field| field.strip_prefix(name));
            value.ok_or_else(|| Error::new("the server's challenge is incomplete"))
        };
        let (nonce, salt, rounds) = (field("r=")?, field("s=")?, field("i=")?);
        if !nonce.starts_with(&self.nonce) {
            return Err(Error::new("the server answers another client"));
        }
        let salt = STANDARD.decode(salt).context("not a salt")?;
        let rounds = rounds.parse().context("not a number of rounds")?;
        let salted = pbkdf2::pbkdf2_hmac_array::<Sha256, 32>(self.password.as_bytes(), &salt, rounds);
        // `biws` is the header `n,,` in base64.
        let unproven = format!("c=biws,r={nonce}");
        let signed = format!("{},{challenge},{unproven}", self.bare);
        let key = sign(&salted, b"Client Key")?;
        let signature = sign(&Sha256::digest(key), signed.as_bytes())?;
        let proof: Vec<u8> = key.iter().zip(signature).map(|(key, signature)| key ^ signature).collect();
        Ok(format!("{unproven},p={}", STANDARD.encode(proof)))
    }
}

fn sign(key: &[u8], text: &[u8]) -> Result<[u8; 32]> {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).context("not a key")?;
    mac.update(text);
    Ok(mac.finalize().into_bytes().into())
}
