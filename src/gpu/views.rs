//! Row-major matrices as BLAS sees them.

/// A row-major matrix in a device's memory, or the transpose of one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct View {
    /// As it lies in memory.
    pub rows: usize,
    pub columns: usize,
    /// Values from one row to the next.
    pub stride: usize,
    /// Whether the transpose is meant.
    pub is_transposed: bool,
}

impl View {
    /// `rows × columns` with `stride` values from one row to the next.
    pub fn new(rows: usize, columns: usize, stride: usize) -> Self {
        Self { rows, columns, stride, is_transposed: false }
    }

    /// The transpose.
    pub fn t(self) -> Self {
        Self { is_transposed: !self.is_transposed, ..self }
    }

    /// Rows and columns of what is meant.
    fn shape(self) -> (usize, usize) {
        if self.is_transposed { (self.columns, self.rows) } else { (self.rows, self.columns) }
    }

    /// Values from the first to the last.
    pub fn extent(self) -> usize {
        if self.rows == 0 || self.columns == 0 { 0 } else { (self.rows - 1) * self.stride + self.columns }
    }
}

/// C = A·B as BLAS takes it, which thinks in columns: of row-major matrices it sees the transposes, and Cᵀ = Bᵀ·Aᵀ, so
/// B is its first factor and A its second.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Call {
    pub m: usize,
    pub n: usize,
    pub k: usize,
    pub first_is_transposed: bool,
    pub second_is_transposed: bool,
    /// Leading dimensions of the first factor, the second, and the result.
    pub leading: [usize; 3],
}

impl Call {
    /// Of `a·b` into `c`.
    pub fn new(c: View, a: View, b: View) -> Self {
        let ((rows, inner), (same, columns)) = (a.shape(), b.shape());
        assert_eq!(inner, same, "inner dimensions differ");
        assert_eq!((c.rows, c.columns, c.is_transposed), (rows, columns, false), "the product has another shape");
        Self {
            m: columns,
            n: rows,
            k: inner,
            first_is_transposed: b.is_transposed,
            second_is_transposed: a.is_transposed,
            leading: [b.stride, a.stride, c.stride],
        }
    }
}
