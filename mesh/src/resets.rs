//! How a node that crashed tells its neighbours at once that it remembers none of their connections: whatever comes for one
//! is answered by a word that only a node with the same secret can say (a stateless reset of QUIC).

use std::sync::Arc;
use std::time::Duration;

use quinn::crypto::{CryptoError, HmacKey};
use quinn::{ConnectionId, ConnectionIdGenerator, EndpointConfig};
use sha2::{Digest, Sha256};

/// How long the name of a connection is: so long that nobody meets one by chance.
const NAME_BYTES: usize = 8;
const HASH_BYTES: usize = 32;

/// Lets a node answer for connections of its lives before. `secret` stays over restarts; `drawn` is drawn at each.
pub(crate) fn answer(secret: [u8; HASH_BYTES], drawn: [u8; HASH_BYTES], endpoint: &mut EndpointConfig) {
    endpoint.reset_key(Arc::new(Words(secret)));
    endpoint.cid_generator(move || Box::new(Names { drawn, count: 0 }));
}

/// Names of connections that nobody can tell from random ones. Any name may be one of a life before: QUIC answers for those
/// that are not known every 20 ms at most, with less than what came.
struct Names {
    drawn: [u8; HASH_BYTES],
    count: u64,
}

impl ConnectionIdGenerator for Names {
    fn generate_cid(&mut self) -> ConnectionId {
        self.count += 1;
        ConnectionId::new(&keyed(&self.drawn, &self.count.to_le_bytes())[..NAME_BYTES])
    }

    fn cid_len(&self) -> usize {
        NAME_BYTES
    }

    fn cid_lifetime(&self) -> Option<Duration> {
        None
    }
}

/// A word for each connection.
struct Words([u8; HASH_BYTES]);

impl HmacKey for Words {
    fn sign(&self, data: &[u8], signature_out: &mut [u8]) {
        signature_out.copy_from_slice(&keyed(&self.0, data));
    }

    fn signature_len(&self) -> usize {
        HASH_BYTES
    }

    fn verify(&self, data: &[u8], signature: &[u8]) -> Result<(), CryptoError> {
        let right = keyed(&self.0, data);
        // In the same time wherever it differs.
        let differs = right.iter().zip(signature).fold(0, |differs, (one, other)| differs | (one ^ other));
        if signature.len() == HASH_BYTES && differs == 0 { Ok(()) } else { Err(CryptoError) }
    }
}

/// HMAC with SHA-256.
fn keyed(key: &[u8; HASH_BYTES], data: &[u8]) -> [u8; HASH_BYTES] {
    const BLOCK_BYTES: usize = 64;
    let block = |pad: u8| {
        let mut block = [pad; BLOCK_BYTES];
        block.iter_mut().zip(key).for_each(|(byte, key)| *byte ^= key);
        block
    };
    let inner = Sha256::new().chain_update(block(0x36)).chain_update(data).finalize();
    Sha256::new().chain_update(block(0x5c)).chain_update(inner).finalize().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_those_of_hmac() {
        // The first 32 bytes of a key that is shorter than a block are padded with zeros: RFC 4231, test case 2.
        let mut key = [0; HASH_BYTES];
        key[..4].copy_from_slice(b"Jefe");
        let word = hex::encode(keyed(&key, b"what do ya want for nothing?"));
        assert_eq!(word, "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843");
    }

    #[test]
    fn only_the_right_word_is_right() {
        let words = Words([7; HASH_BYTES]);
        let mut word = [0; HASH_BYTES];
        words.sign(b"x", &mut word);
        assert!(words.verify(b"x", &word).is_ok());
        assert!(words.verify(b"y", &word).is_err());
        assert!(words.verify(b"x", &word[..16]).is_err());
        assert!(Words([8; HASH_BYTES]).verify(b"x", &word).is_err());
    }
}
