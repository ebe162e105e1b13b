//! TFRecord, the frame of TensorBoard's event files: length, its checksum, data, its checksum.

/// TFRecord's checksum: CRC-32C, masked so that it stays strong over data that holds checksums.
pub fn masked_crc(bytes: &[u8]) -> u32 {
    crc32c::crc32c(bytes).rotate_right(15).wrapping_add(0xa282_ead8)
}

/// The frame around `data`.
pub fn tfrecord(data: &[u8]) -> Vec<u8> {
    let length = (data.len() as u64).to_le_bytes();
    [&length[..], &masked_crc(&length).to_le_bytes(), data, &masked_crc(data).to_le_bytes()].concat()
}

/// Whether the bytes start a record: a length and its checksum.
pub(super) fn starts_tfrecord(start: &[u8]) -> bool {
    match start.first_chunk::<12>() {
        Some([length @ .., c0, c1, c2, c3]) => masked_crc(length) == u32::from_le_bytes([*c0, *c1, *c2, *c3]),
        None => false,
    }
}
