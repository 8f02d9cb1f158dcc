//! What a `quantization_config` says of weights that are stored in eight bits, each group with a scale.

use anyhow::{Context, Result, bail, ensure};
use serde::Serialize;
use serde_json::{Map, Value, json};

/// Weights in eight bits that are read as value × scale.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Quantization {
    /// `quant_method` in the file.
    pub method: String,
    /// Rows and columns that share a scale, where the file says it; otherwise the scales' own shape does.
    pub block: Option<(usize, usize)>,
}

/// What a block of `fp8` is where the file does not say it, as DeepSeek and Qwen publish.
const FP8_BLOCK: (usize, usize) = (128, 128);

/// What calipr reads, for messages.
const READS: &str = "calipr reads weights that are not quantised, 8-bit ones with scales (fp8, fbgemm_fp8, and \
                     compressed-tensors' float-quantized, int-quantized and naive-quantized), and GGUF";

impl Quantization {
    /// # Errors
    /// Where the weights are stored in a way that calipr does not read; by its name.
    pub fn of(config: &Value) -> Result<Self> {
        let Value::Object(keys) = config else { bail!("`quantization_config` is {config}; expected an object") };
        let Some(method) = keys.get("quant_method").and_then(Value::as_str) else {
            bail!("`quantization_config` has no `quant_method`; {READS}")
        };
        let block = match method {
            "fp8" => block_size(keys)?,
            "fbgemm_fp8" => None,
            "compressed-tensors" => compressed_tensors(keys)?,
            other => {
                let bits = ["bits", "w_bit", "nbits"].iter().find_map(|key| keys.get(*key)?.as_u64());
                let four = keys.get("load_in_4bit").and_then(Value::as_bool).filter(|&four| four).map(|_| 4);
                let bits = bits.or(four).map_or(String::new(), |bits| format!(", {bits} bits"));
                bail!("the weights are quantised ({other}{bits}); {READS}")
            }
        };
        Ok(Self { method: method.to_owned(), block })
    }

    /// Whether scales that lie in a grid of `groups` over a side of so many weights can be read in two ways: by the
    /// blocks' size, as they were made, or evenly, as transformers reads them on a CPU.
    pub fn is_ambiguous(&self, side: usize, groups: usize, rows: bool) -> bool {
        let (down, across) = self.block.unwrap_or(FP8_BLOCK);
        let size = if rows { down } else { across };
        let evenly = groups > 1 && side.is_multiple_of(groups);
        self.method == "fp8" && evenly && groups == side.div_ceil(size) && side / groups != size
    }
}

fn block_size(keys: &Map<String, Value>) -> Result<Option<(usize, usize)>> {
    match keys.get("weight_block_size") {
        None | Some(Value::Null) => Ok(None),
        Some(size) => sides("weight_block_size", size).map(Some),
    }
}

/// Two sides of a block.
fn sides(key: &str, size: &Value) -> Result<(usize, usize)> {
    let sides = || -> Option<(usize, usize)> {
        let [rows, columns] = size.as_array()?.as_slice() else { return None };
        let side = |value: &Value| usize::try_from(value.as_u64()?).ok().filter(|&n| n > 0);
        Some((side(rows)?, side(columns)?))
    };
    match sides() {
        Some(sides) => Ok(sides),
        None => bail!("`{key}` of `quantization_config` is {size}; expected two whole numbers"),
    }
}

/// Rows and columns that share a scale, where the groups of the config say so.
fn compressed_tensors(keys: &Map<String, Value>) -> Result<Option<(usize, usize)>> {
    let groups = keys.get("config_groups").and_then(Value::as_object);
    let own = groups.into_iter().flat_map(Map::values).map(|group| &group["format"]);
    let known = ["float-quantized", "int-quantized", "naive-quantized"];
    for format in keys.get("format").into_iter().chain(own).filter(|format| !format.is_null()) {
        ensure!(
            format.as_str().is_some_and(|format| known.contains(&format)),
            "the weights are quantised (compressed-tensors, format {format}); {READS}"
        );
    }
    if let Some(format) = keys.get("sparsity_config").and_then(|c| c["format"].as_str()).filter(|&f| f != "dense") {
        bail!("the weights are stored sparse (compressed-tensors, format \"{format}\"); {READS}");
    }
    let is_empty = |config: &Value| {
        config.is_null()
            || config.as_object().is_some_and(|c| c.is_empty() || c.get("config_groups") == Some(&json!({})))
    };
    ensure!(
        keys.get("transform_config").is_none_or(is_empty),
        "`transform_config` has the activations transformed as the model runs, which calipr does not compute"
    );
    let mut blocks = Vec::new();
    for weights in groups.into_iter().flat_map(Map::values).map(|group| &group["weights"]) {
        let given = |key: &str| weights.get(key).filter(|value| !value.is_null());
        let block = match (weights["strategy"].as_str(), given("block_structure"), given("group_size")) {
            (Some("block"), Some(size), _) => Some(sides("block_structure", size)?),
            (Some("group"), _, Some(size)) => Some((1, whole("group_size", size)?)),
            _ => None,
        };
        blocks.push(block);
    }
    blocks.dedup();
    match blocks.as_slice() {
        [] => Ok(None),
        [block] => Ok(*block),
        _ => bail!("`config_groups` divides weights into groups of several sizes, which calipr does not read"),
    }
}

fn whole(key: &str, value: &Value) -> Result<usize> {
    let number = value.as_u64().and_then(|n| usize::try_from(n).ok()).filter(|&n| n > 0);
    number.with_context(|| format!("`{key}` of `quantization_config` is {value}; expected a whole number"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn eight_bit_formats_with_scales_are_read_and_others_refused_by_name() {
        let fp8 = Quantization::of(&json!({"quant_method": "fp8", "weight_block_size": [128, 64]})).unwrap();
        assert_eq!(fp8.block, Some((128, 64)));
        for read in [
            json!({"quant_method": "fp8", "activation_scheme": "static"}),
            json!({"quant_method": "fbgemm_fp8"}),
            json!({"quant_method": "compressed-tensors", "format": "float-quantized", "sparsity_config": {}}),
            json!({"quant_method": "compressed-tensors", "config_groups": {"group_0": {"format": "int-quantized"}}}),
        ] {
            assert_eq!(Quantization::of(&read).unwrap().block, None, "{read}");
        }
        let grouped = |weights: Value| json!({"quant_method": "compressed-tensors", "config_groups": {"g": {"weights": weights}}});
        let block = |weights: Value| Quantization::of(&grouped(weights)).unwrap().block;
        assert_eq!(block(json!({"strategy": "block", "block_structure": [64, 32]})), Some((64, 32)));
        assert_eq!(block(json!({"strategy": "group", "group_size": 64})), Some((1, 64)));
        assert_eq!(block(json!({"strategy": "channel", "group_size": null})), None);
        for (refused, says) in [
            (
                json!({"quant_method": "compressed-tensors", "transform_config": {"config_groups": {"u": {}}}}),
                "transform",
            ),
            (grouped(json!({"strategy": "block", "block_structure": "128"})), "block_structure"),
            (json!({"quant_method": "gptq", "bits": 4}), "(gptq, 4 bits)"),
            (json!({"quant_method": "bitsandbytes", "load_in_4bit": true}), "(bitsandbytes, 4 bits)"),
            (json!({"quant_method": "compressed-tensors", "format": "pack-quantized"}), "pack-quantized"),
            (
                json!({"quant_method": "compressed-tensors", "config_groups": {"g": {"format": "nvfp4-pack-quantized"}}}),
                "nvfp4",
            ),
            (
                json!({"quant_method": "compressed-tensors", "sparsity_config": {"format": "sparse-bitmask"}}),
                "sparse-bitmask",
            ),
            (json!({}), "quant_method"),
            (json!({"quant_method": "fp8", "weight_block_size": [0, 1]}), "weight_block_size"),
        ] {
            let error = Quantization::of(&refused).unwrap_err().to_string();
            assert!(error.contains(says), "{error}");
        }
    }
}
