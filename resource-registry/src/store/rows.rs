//! The bytes of a row: every row carries a checksum over its key and its value, so that damage is never read as data.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use starlane_core::Revision;

use super::{Batch, Change, LeaseId, Record};

/// A row that does not read back as it was written.
#[derive(Debug)]
pub(super) struct Damaged(pub(super) &'static str);

/// The value of a row of the main table.
pub(super) fn encode_record(key: &[u8], record: &Record) -> Vec<u8> {
    let mut bytes = BytesMut::with_capacity(record.value.len() + 28);
    bytes.put_u32_le(0);
    put_record(&mut bytes, record);
    seal(key, bytes)
}

pub(super) fn decode_record(key: &[u8], row: &[u8]) -> Result<Record, Damaged> {
    let mut bytes = Bytes::copy_from_slice(unseal(key, row)?);
    let record = take_record(&mut bytes)?;
    if bytes.has_remaining() { Err(Damaged("a record is too long")) } else { Ok(record) }
}

/// The value of a row of the log, whose key is the revision.
pub(super) fn encode_batch(batch: &Batch) -> Vec<u8> {
    let mut bytes = BytesMut::with_capacity(64 + batch.changes.len() * 256);
    bytes.put_u32_le(0);
    put_slice(&mut bytes, &batch.meta);
    put_varint(&mut bytes, batch.changes.len() as u64);
    for change in &batch.changes {
        put_slice(&mut bytes, &change.key);
        bytes.put_u8(u8::from(change.before.is_some()) | u8::from(change.after.is_some()) << 1);
        for record in [&change.before, &change.after].into_iter().flatten() {
            put_record(&mut bytes, record);
        }
    }
    seal(&batch.revision.0.to_le_bytes(), bytes)
}

pub(super) fn decode_batch(revision: u64, row: &[u8]) -> Result<Batch, Damaged> {
    let mut bytes = Bytes::copy_from_slice(unseal(&revision.to_le_bytes(), row)?);
    let meta = take_slice(&mut bytes)?;
    let count = take_varint(&mut bytes)?;
    let mut changes = Vec::new();
    for _ in 0..count {
        let key = take_slice(&mut bytes)?;
        let flags = take_u8(&mut bytes)?;
        let before = (flags & 1 != 0).then(|| take_record(&mut bytes)).transpose()?;
        let after = (flags & 2 != 0).then(|| take_record(&mut bytes)).transpose()?;
        changes.push(Change { key, before, after });
    }
    Ok(Batch { revision: Revision(revision), meta, changes })
}

fn put_record(bytes: &mut BytesMut, record: &Record) {
    put_varint(bytes, record.created.0);
    put_varint(bytes, record.modified.0);
    put_varint(bytes, record.version);
    put_varint(bytes, record.lease.map_or(0, |lease| lease.0));
    put_slice(bytes, &record.value);
}

fn take_record(bytes: &mut Bytes) -> Result<Record, Damaged> {
    Ok(Record {
        created: Revision(take_varint(bytes)?),
        modified: Revision(take_varint(bytes)?),
        version: take_varint(bytes)?,
        lease: Some(take_varint(bytes)?).filter(|lease| *lease != 0).map(LeaseId),
        value: take_slice(bytes)?,
    })
}

/// Puts the checksum over key and payload into the first four bytes.
fn seal(key: &[u8], mut bytes: BytesMut) -> Vec<u8> {
    let sum = checksum(key, &bytes[4..]);
    bytes[..4].copy_from_slice(&sum.to_le_bytes());
    bytes.into()
}

fn unseal<'a>(key: &[u8], row: &'a [u8]) -> Result<&'a [u8], Damaged> {
    let (sum, payload) = row.split_first_chunk::<4>().ok_or(Damaged("a row is too short"))?;
    if u32::from_le_bytes(*sum) == checksum(key, payload) {
        Ok(payload)
    } else {
        Err(Damaged("the checksum of a row does not match"))
    }
}

fn checksum(key: &[u8], payload: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&(key.len() as u32).to_le_bytes());
    hasher.update(key);
    hasher.update(payload);
    hasher.finalize()
}

fn put_slice(bytes: &mut BytesMut, slice: &[u8]) {
    put_varint(bytes, slice.len() as u64);
    bytes.put_slice(slice);
}

fn take_slice(bytes: &mut Bytes) -> Result<Bytes, Damaged> {
    let length = take_varint(bytes)?;
    match usize::try_from(length) {
        Ok(length) if length <= bytes.len() => Ok(bytes.split_to(length)),
        _ => Err(Damaged("a row ends too early")),
    }
}

/// LEB128, as in postcard.
fn put_varint(bytes: &mut BytesMut, mut value: u64) {
    while value >= 0x80 {
        bytes.put_u8(value as u8 | 0x80);
        value >>= 7;
    }
    bytes.put_u8(value as u8);
}

fn take_varint(bytes: &mut Bytes) -> Result<u64, Damaged> {
    let mut value = 0u64;
    for shift in (0..64).step_by(7) {
        let byte = take_u8(bytes)?;
        value |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Ok(value);
        }
    }
    Err(Damaged("a number is too long"))
}

fn take_u8(bytes: &mut Bytes) -> Result<u8, Damaged> {
    if bytes.has_remaining() { Ok(bytes.get_u8()) } else { Err(Damaged("a row ends too early")) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn records() -> impl Strategy<Value = Record> {
        (any::<u64>(), any::<u64>(), any::<u64>(), any::<u64>(), prop::collection::vec(any::<u8>(), 0..40))
            .prop_map(|(created, modified, version, lease, value)| Record {
                value: value.into(),
                created: Revision(created),
                modified: Revision(modified),
                version,
                lease: Some(lease).filter(|lease| *lease != 0).map(LeaseId),
            })
    }

    fn batches() -> impl Strategy<Value = Batch> {
        let change = (
            prop::collection::vec(any::<u8>(), 0..20),
            prop::option::of(records()),
            prop::option::of(records()),
        )
            .prop_map(|(key, before, after)| Change { key: key.into(), before, after });
        (any::<u64>(), prop::collection::vec(any::<u8>(), 0..20), prop::collection::vec(change, 0..5))
            .prop_map(|(revision, meta, changes)| Batch {
                revision: Revision(revision),
                meta: meta.into(),
                changes,
            })
    }

    proptest! {
        #[test]
        fn rows_read_back_as_written(batch in batches(), record in records()) {
            let row = encode_batch(&batch);
            prop_assert_eq!(decode_batch(batch.revision.0, &row).map_err(|d| TestCaseError::fail(d.0))?, batch);
            let row = encode_record(b"key", &record);
            prop_assert_eq!(decode_record(b"key", &row).map_err(|d| TestCaseError::fail(d.0))?, record);
        }

        #[test]
        fn a_flipped_bit_is_noticed(batch in batches(), at in any::<prop::sample::Index>(), bit in 0..8) {
            let mut row = encode_batch(&batch);
            let at = at.index(row.len());
            row[at] ^= 1u8 << bit;
            prop_assert!(decode_batch(batch.revision.0, &row).is_err());
        }

        #[test]
        fn any_bytes_are_read_without_panic(row in prop::collection::vec(any::<u8>(), 0..64)) {
            let _ = decode_batch(7, &row);
            // The same again behind a checksum that fits.
            let mut sealed = BytesMut::from(&[0; 4][..]);
            sealed.extend_from_slice(&row);
            let _ = decode_batch(7, &seal(&7u64.to_le_bytes(), sealed.clone()));
            let _ = decode_record(b"key", &seal(b"key", sealed));
        }
    }
}
