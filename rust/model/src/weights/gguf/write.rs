//! Writing a GGUF file, version 3: the header, then each tensor's rows, made on all threads as they are written.
//! Format: ggml `docs/gguf.md`. Knows nothing of what keys and tensors mean.
use std::{
    fs::File,
    io::{self, BufWriter, Write},
    path::Path,
};

use candle_vllm_kernels::cpu::{Compute, ggml::GgmlType};

use super::{Metadata, header::MAGIC};
use crate::{Error, Result, loader};

/// Every tensor begins at a multiple of so many bytes, which is what readers assume unless a key says otherwise.
const ALIGNMENT: usize = 32;

/// Bytes that one thread makes at a time, about.
const CHUNK: usize = 1 << 20;

/// One entry of the metadata: its key, and its type and value as the file has them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pair {
    /// Key.
    pub key: String,
    /// Type code and value.
    pub bytes: Vec<u8>,
}

/// A value to be written; each of the type that llama.cpp reads under the keys that have such.
#[derive(Debug, Clone, Copy)]
#[allow(missing_docs)]
pub enum Said<'a> {
    U32(u32),
    F32(f32),
    Bool(bool),
    Text(&'a str),
    Texts(&'a [String]),
    I32s(&'a [i32]),
    F32s(&'a [f32]),
    Bools(&'a [bool]),
}

fn text(out: &mut Vec<u8>, text: &str) {
    out.extend((text.len() as u64).to_le_bytes());
    out.extend(text.as_bytes());
}

/// An array's type, that of its elements, and its length.
fn array(out: &mut Vec<u8>, element: u32, len: usize) {
    out.extend(9u32.to_le_bytes());
    out.extend(element.to_le_bytes());
    out.extend((len as u64).to_le_bytes());
}

impl Pair {
    /// `value` under `key`.
    pub fn new(key: impl Into<String>, value: Said<'_>) -> Self {
        let mut out = Vec::new();
        let plain = |out: &mut Vec<u8>, code: u32, value: &[u8]| {
            out.extend(code.to_le_bytes());
            out.extend(value);
        };
        match value {
            Said::U32(v) => plain(&mut out, 4, &v.to_le_bytes()),
            Said::F32(v) => plain(&mut out, 6, &v.to_le_bytes()),
            Said::Bool(v) => plain(&mut out, 7, &[v.into()]),
            Said::Text(v) => {
                plain(&mut out, 8, &[]);
                text(&mut out, v);
            }
            Said::Texts(all) => {
                array(&mut out, 8, all.len());
                all.iter().for_each(|v| text(&mut out, v));
            }
            Said::I32s(all) => {
                array(&mut out, 5, all.len());
                out.extend(all.iter().flat_map(|v| v.to_le_bytes()));
            }
            Said::F32s(all) => {
                array(&mut out, 6, all.len());
                out.extend(all.iter().flat_map(|v| v.to_le_bytes()));
            }
            Said::Bools(all) => {
                array(&mut out, 7, all.len());
                out.extend(all.iter().map(|v| u8::from(*v)));
            }
        }
        Self {
            key: key.into(),
            bytes: out,
        }
    }
}

/// A tensor to be written.
pub struct Tensor<'a> {
    /// ggml's name.
    pub name: String,
    /// Its type in the new file.
    pub dtype: GgmlType,
    /// Outermost first.
    pub shape: Vec<usize>,
    /// Opens it when its turn comes; what is opened is dropped behind its last row.
    pub open: Box<dyn Fn() -> Result<Rows<'a>> + 'a>,
}

/// Makes a row's bytes; rows are those of all but the last dimension together.
pub type Rows<'a> = Box<dyn Fn(usize, &mut [u8]) -> Result<()> + Sync + 'a>;

/// What a reader finds in a file with these entries.
///
/// # Errors
/// `Load` where it finds a key twice.
pub fn metadata(pairs: &[Pair]) -> Result<Metadata> {
    let bytes = header(pairs, &[]);
    Ok(super::header::parse(&bytes, "the new file")?.metadata)
}

impl Tensor<'_> {
    fn rows(&self) -> usize {
        self.shape.iter().rev().skip(1).product()
    }

    fn row_bytes(&self) -> usize {
        let columns = self.shape.last().copied().unwrap_or(0);
        columns / self.dtype.block_len() * self.dtype.block_bytes()
    }

    fn bytes(&self) -> usize {
        self.rows() * self.row_bytes()
    }
}

fn header(pairs: &[Pair], tensors: &[Tensor<'_>]) -> Vec<u8> {
    let mut out = MAGIC.to_vec();
    out.extend(3u32.to_le_bytes());
    out.extend((tensors.len() as u64).to_le_bytes());
    out.extend((pairs.len() as u64).to_le_bytes());
    for pair in pairs {
        text(&mut out, &pair.key);
        out.extend(&pair.bytes);
    }
    let mut offset = 0;
    for tensor in tensors {
        text(&mut out, &tensor.name);
        out.extend((tensor.shape.len() as u32).to_le_bytes());
        for side in tensor.shape.iter().rev() {
            out.extend((*side as u64).to_le_bytes());
        }
        out.extend(tensor.dtype.code().to_le_bytes());
        out.extend((offset as u64).to_le_bytes());
        offset += tensor.bytes().next_multiple_of(ALIGNMENT);
    }
    out.resize(out.len().next_multiple_of(ALIGNMENT), 0);
    out
}

/// Told (bytes written, bytes in all); whether to go on.
pub type Going<'a> = &'a (dyn Fn(u64, u64) -> bool + Sync);

/// Writes the file.
///
/// # Errors
/// `Write` where the file cannot be written; `Run` when it is not to go on; what a row's maker says. What was written so
/// far stays.
pub fn write(
    path: &Path,
    pairs: &[Pair],
    tensors: &[Tensor<'_>],
    compute: &Compute,
    going: Going<'_>,
) -> Result<u64> {
    let io = |source| Error::Write {
        path: path.to_path_buf(),
        source,
    };
    let header = header(pairs, tensors);
    let padded = |t: &Tensor<'_>| t.bytes().next_multiple_of(ALIGNMENT) as u64;
    let total = header.len() as u64 + tensors.iter().map(padded).sum::<u64>();
    let mut file = BufWriter::new(File::create(path).map_err(io)?);
    let mut done = 0;
    let mut put = |part: &[u8]| {
        file.write_all(part).map_err(io)?;
        done += part.len() as u64;
        match going(done, total) {
            true => Ok(()),
            false => Err(Error::Run("writing the file was interrupted".into())),
        }
    };
    put(&header)?;
    for tensor in tensors {
        let (rows, bytes) = (tensor.rows(), tensor.row_bytes());
        let chunk = (CHUNK / bytes.max(1)).max(1);
        let batch = chunk * compute.pool.threads() * 4;
        let make = (tensor.open)()?;
        for first in (0..rows).step_by(batch) {
            let last = (first + batch).min(rows);
            let made = loader::on_threads(Some(compute), (last - first).div_ceil(chunk), |i| {
                let from = first + i * chunk;
                let own = from..(from + chunk).min(last);
                let mut out = vec![0; own.len() * bytes];
                for (row, out) in own.zip(out.chunks_exact_mut(bytes)) {
                    make(row, out)?;
                }
                Ok(out)
            })?;
            for part in made {
                put(&part)?;
            }
        }
        put(&vec![0; padded(tensor) as usize - tensor.bytes()])?;
    }
    let file = file.into_inner().map_err(|e| io(io::Error::from(e)))?;
    file.sync_all().map_err(io)?;
    Ok(total)
}
