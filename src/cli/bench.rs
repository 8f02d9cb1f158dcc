//! `calipr bench`

use std::num::NonZeroUsize;
use std::path::PathBuf;

use anyhow::{Context, Result};
use candle_core::DType;
use clap::Args;

use super::terminal::columns;
use super::{Machinery, print};
use crate::data::Library;
use crate::linalg::bf16;
use crate::model::{Model, ModelFiles, device};
use crate::pipeline::{Machine, Rates, Watch, bench};
use crate::recipe::Recipe;
use crate::table::Table;

#[derive(Args)]
pub struct BenchArgs {
    /// The recipe whose model, device, methods and length of windows are measured, or its name; its data is not needed.
    #[arg(value_parser = super::recipe())]
    recipe: PathBuf,
    /// Set a key of the recipe, over the file and the environment: --set model.dtype=bf16.
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// About how many tokens go through the model [default: as many as the recipe calibrates on, up to 8192]
    #[arg(long, value_name = "N")]
    tokens: Option<NonZeroUsize>,
    #[command(flatten)]
    machinery: Machinery,
}

impl BenchArgs {
    /// Measures this machine's products, and the stages of a study beside them.
    pub fn bench(&self) -> Result<()> {
        let (recipe, _) = Recipe::load(&self.recipe, &self.set)?;
        let terminal = self.machinery.start()?;
        let fetcher = self.machinery.fetcher(&self.machinery.cache());
        let library = Library::of_recipe(&self.recipe);
        let path = recipe.model.source.resolve(&library.bases(), &fetcher).context("the model")?;
        let device = recipe.model.device.open_first()?;
        let dtype = DType::from(recipe.model.dtype);
        let model = Model::open(&ModelFiles::at(&path)?, dtype, device.clone())?;

        // The longest windows that the recipe calibrates on, else such as perplexity is published with.
        let longest = recipe.calibration.values().max_by_key(|c| c.length);
        let (windows, length) = longest.map_or((4, 2048), |c| (c.windows, c.length));
        let tokens = self.tokens.map_or((windows * length).min(8192), NonZeroUsize::get);
        let windows = tokens.div_ceil(length).max(1);

        let peaks = [DType::F32, DType::BF16].map(|dtype| Ok((dtype, bench::matmul_peak(&device, dtype)?)));
        let peaks = peaks.into_iter().collect::<Result<Vec<_>>>()?;
        // A GPU computes f16 as fast as bf16.
        let peak = |dtype| if dtype == DType::F32 { peaks[0].1 } else { peaks[1].1 };
        let line = terminal.line();
        line.cell_begins(1, 1, "bench");
        let width = model.spec.hidden;
        let stages = bench::stages(&recipe, model, (windows, length), &line)?;
        terminal.clear();
        let mut rates = Rates::default();
        stages.iter().for_each(|stage| rates.add(stage.kind, stage.amount, stage.seconds));
        if let Err(error) = rates.remember(&self.machinery.cache(), &Machine::here(&device, dtype), width) {
            tracing::warn!("plans will not know of these rates: {error:#}");
        }

        let rates: Vec<String> =
            peaks.iter().map(|(dtype, peak)| format!("{} {}", rate(*peak), dtype.as_str())).collect();
        let threads =
            if device.is_cpu() { format!(", {} threads", rayon::current_num_threads()) } else { String::new() };
        let mut text = format!("matrix products on {}{threads}: {}\n", device::name(&device), rates.join(", "));
        if device.is_cpu() && !bf16::is_native() {
            text += "this processor has no AVX-512 BF16: bf16 is computed in f32\n";
        }
        let dtype = recipe.model.dtype;
        text += &format!(
            "{} in {dtype}, {windows} windows of {length} tokens, blocks as a study passes them:\n\n",
            recipe.model.source
        );
        let mut table = Table::new(["stage", "GFLOP", "seconds", "rate", "of products"]);
        for stage in &stages {
            let has_work = stage.work > 0.0;
            let when = |s: String| if has_work { s } else { "-".into() };
            table.row([
                stage.name.clone(),
                when(format!("{:.1}", stage.work / 1e9)),
                format!("{:.3}", stage.seconds),
                when(rate(stage.rate())),
                when(format!("{:.0}% in {}", 100.0 * stage.rate() / peak(stage.dtype), stage.dtype.as_str())),
            ]);
        }
        print(&(text + &table.fitting(columns())))
    }
}

fn rate(flops: f64) -> String {
    if flops < 1e12 { format!("{:.0} GFLOP/s", flops / 1e9) } else { format!("{:.1} TFLOP/s", flops / 1e12) }
}
