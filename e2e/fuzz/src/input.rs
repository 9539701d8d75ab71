//! Bytes as choices: a target that wants more than one thing takes them from the front. When they run out, it gets zeros.

/// What is left of an input.
pub struct Input<'a>(pub &'a [u8]);

impl<'a> Input<'a> {
    pub fn byte(&mut self) -> u8 {
        let (first, rest) = self.0.split_first().map_or((0, self.0), |(first, rest)| (*first, rest));
        self.0 = rest;
        first
    }

    pub fn choice<'c, T>(&mut self, of: &'c [T]) -> &'c T {
        &of[usize::from(self.byte()) % of.len()]
    }

    /// Up to the next zero byte, or all.
    pub fn field(&mut self) -> &'a [u8] {
        let end = self.0.iter().position(|byte| *byte == 0).unwrap_or(self.0.len());
        let (field, rest) = self.0.split_at(end);
        self.0 = rest.get(1..).unwrap_or_default();
        field
    }

    /// The same as text; bytes that are none are replaced.
    pub fn text(&mut self) -> String {
        String::from_utf8_lossy(self.field()).into_owned()
    }

    /// Two bytes of length, and so many bytes.
    pub fn block(&mut self) -> &'a [u8] {
        let length = usize::from(self.byte()) << 8 | usize::from(self.byte());
        let (block, rest) = self.0.split_at(length.min(self.0.len()));
        self.0 = rest;
        block
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// An input of blocks.
pub fn blocks(blocks: &[&[u8]]) -> Vec<u8> {
    let mut all = Vec::new();
    for block in blocks {
        all.extend(u16::try_from(block.len()).expect("a seed's block is short").to_be_bytes());
        all.extend(*block);
    }
    all
}
