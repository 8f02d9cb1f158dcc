//! The header of a GGUF file, as far as it takes to say which tensor cannot be read.

/// ggml's types that candle has no code for, by number (`ggml.h`).
const TYPES: &[(u32, &str)] = &[
    (16, "IQ2_XXS"),
    (17, "IQ2_XS"),
    (18, "IQ3_XXS"),
    (19, "IQ1_S"),
    (20, "IQ4_NL"),
    (21, "IQ3_S"),
    (22, "IQ2_S"),
    (23, "IQ4_XS"),
    (24, "I8"),
    (25, "I16"),
    (26, "I32"),
    (27, "I64"),
    (28, "F64"),
    (29, "IQ1_M"),
    (34, "TQ1_0"),
    (35, "TQ2_0"),
    (39, "MXFP4"),
    (40, "NVFP4"),
];

/// The numbers of the types that can be read.
const READABLE: &[u32] = &[0, 1, 2, 3, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 30];

/// Says which tensor is of a type that cannot be read, and which types can; None where that is not what is wrong.
pub fn unreadable_tensor(file: &[u8]) -> Option<String> {
    let mut header = Header(file);
    header.take(4)?;
    let version = header.u32()?;
    if !(2..=3).contains(&version) {
        return None;
    }
    let (tensors, values) = (header.u64()?, header.u64()?);
    for _ in 0..values {
        header.text()?;
        let kind = header.u32()?;
        header.skip_value(kind)?;
    }
    for _ in 0..tensors {
        let name = header.text()?;
        let dimensions = header.u32()?;
        header.take(usize::try_from(dimensions).ok()?.checked_mul(8)?)?;
        let kind = header.u32()?;
        header.u64()?;
        if !READABLE.contains(&kind) {
            let known = TYPES.iter().find(|(number, _)| *number == kind);
            let kind = known.map_or_else(|| format!("number {kind}"), |(_, name)| (*name).to_owned());
            return Some(format!(
                "tensor `{}` is of the type {kind}, which calipr does not read; it reads F32, F16, BF16, Q4_0, Q4_1, \
                 Q5_0, Q5_1, Q8_0 and the K-quants (Q2_K to Q6_K). llama-quantize makes such a file",
                String::from_utf8_lossy(name)
            ));
        }
    }
    None
}

/// What is left of a header.
struct Header<'a>(&'a [u8]);

impl<'a> Header<'a> {
    fn take(&mut self, bytes: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(bytes)?;
        self.0 = rest;
        Some(taken)
    }

    fn u32(&mut self) -> Option<u32> {
        Some(u32::from_le_bytes(self.take(4)?.try_into().ok()?))
    }

    fn u64(&mut self) -> Option<u64> {
        Some(u64::from_le_bytes(self.take(8)?.try_into().ok()?))
    }

    fn text(&mut self) -> Option<&'a [u8]> {
        let length = usize::try_from(self.u64()?).ok()?;
        self.take(length)
    }

    /// Passes over a value of the metadata; lists lie in no other lists.
    fn skip_value(&mut self, kind: u32) -> Option<()> {
        const TEXT: u32 = 8;
        const LIST: u32 = 9;
        let size = |kind: u32| match kind {
            0 | 1 | 7 => Some(1),
            2 | 3 => Some(2),
            4..=6 => Some(4),
            10..=12 => Some(8),
            _ => None,
        };
        match kind {
            TEXT => self.text().map(drop),
            LIST => {
                let (kind, count) = (self.u32()?, self.u64()?);
                match kind {
                    TEXT => (0..count).try_for_each(|_| self.text().map(drop)),
                    kind => self.take(usize::try_from(count).ok()?.checked_mul(size(kind)?)?).map(drop),
                }
            }
            kind => self.take(size(kind)?).map(drop),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(text: &str) -> Vec<u8> {
        [&(text.len() as u64).to_le_bytes()[..], text.as_bytes()].concat()
    }

    fn file(kind: u32) -> Vec<u8> {
        let mut bytes = [b"GGUF", &3u32.to_le_bytes()[..], &2u64.to_le_bytes(), &3u64.to_le_bytes()].concat();
        bytes.extend([text("a.name"), 8u32.to_le_bytes().to_vec(), text("x")].concat());
        bytes.extend([text("a.flag"), 7u32.to_le_bytes().to_vec(), vec![1]].concat());
        let list = [8u32.to_le_bytes().to_vec(), 2u64.to_le_bytes().to_vec(), text("one"), text("two")].concat();
        bytes.extend([text("a.list"), 9u32.to_le_bytes().to_vec(), list].concat());
        for (name, kind) in [("fine", 0u32), ("blk.0.attn_q.weight", kind)] {
            bytes.extend([text(name), 1u32.to_le_bytes().to_vec(), 8u64.to_le_bytes().to_vec()].concat());
            bytes.extend([&kind.to_le_bytes()[..], &0u64.to_le_bytes()].concat());
        }
        bytes
    }

    #[test]
    fn a_tensor_of_a_type_that_cannot_be_read_is_named_with_its_type() {
        let said = unreadable_tensor(&file(23)).unwrap();
        assert!(said.contains("`blk.0.attn_q.weight`") && said.contains("IQ4_XS") && said.contains("Q4_0"), "{said}");
        assert!(unreadable_tensor(&file(99)).unwrap().contains("number 99"));
        assert_eq!(unreadable_tensor(&file(12)), None);
        assert_eq!(unreadable_tensor(&file(23)[..40]), None);
    }
}
