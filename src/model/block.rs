//! One decoder block, in steps that can be watched from outside.
//!
//! Pruning needs what each linear reads. The places where linears read are the block's sites; [`Block::advance`] takes a
//! batch from one to the next, and whoever walks the block may look at the input there, or replace the weights that are
//! about to read it, before going on.

use std::ops::Range;
use std::sync::Arc;

use candle_core::{Result, Tensor};

use super::attention::{Attention, KvCache, Span};
use super::linear::Linear;
use super::parts::{Experts, Norm, Routed, Routing, elementwise};
use super::rope::Ropes;
use super::spec::{BlockSpec, Feed, FeedForwardSpec, FeedInputs, Heads, Inputs, Over, Place, Residual};

/// The weights of one block.
#[derive(Clone)]
pub struct Block {
    pub spec: Arc<BlockSpec>,
    /// In the order of the spec.
    pub linears: Vec<Linear>,
    pub norms: BlockNorms,
    /// What routes tokens, where there are experts.
    pub experts: Option<Experts>,
}

/// The norms of a block, those of them that it has.
#[derive(Debug, Clone, Default)]
pub struct BlockNorms {
    pub before_attention: Option<Norm>,
    pub after_attention: Option<Norm>,
    pub before_feed_forward: Option<Norm>,
    pub after_feed_forward: Option<Norm>,
    pub q: Option<Norm>,
    pub k: Option<Norm>,
}

/// A batch of windows on its way through a block.
#[derive(Clone)]
pub struct Flow {
    /// The residual stream, (tokens, hidden).
    pub hidden: Tensor,
    /// What the linears of the current site read, (rows, columns): of all tokens, or of those that [`Flow::routed`] has.
    pub input: Tensor,
    /// Where the batch's windows lie among its tokens.
    pub spans: Vec<Span>,
    /// The expert whose tokens the input is of; None where it is of all.
    expert: Option<usize>,
    aside: Aside,
}

/// What a batch carries from one site to a later one.
#[derive(Clone, Default)]
struct Aside {
    /// What the feed-forward reads, (tokens, hidden).
    normed: Option<Tensor>,
    /// What attention adds, where the feed-forward beside it does not see that.
    attended: Option<Tensor>,
    routing: Option<Arc<Routing>>,
    /// What experts have made so far, (tokens, hidden).
    mixed: Option<Tensor>,
}

impl Flow {
    /// `hidden` (tokens × hidden) holds the spans one after the other.
    pub fn new(hidden: Tensor, spans: Vec<Span>) -> Self {
        Self { input: hidden.clone(), hidden, spans, expert: None, aside: Aside::default() }
    }

    /// The tokens that the input is of; None where it is of all.
    fn routed(&self) -> Option<&Routed> {
        Some(self.aside.routing.as_ref()?.of(self.expert?))
    }

    /// Which tokens each window has.
    pub fn windows_of_all(&self) -> Vec<Range<usize>> {
        self.spans.iter().map(|span| span.own.clone()).collect()
    }

    /// Which rows of the input each window has.
    pub fn windows(&self) -> Vec<Range<usize>> {
        match self.routed() {
            Some(routed) => routed.within(&self.windows_of_all()),
            None => self.windows_of_all(),
        }
    }

    /// The part that has the tokens `from..to`, which are whole windows with all that they see.
    pub fn part(&self, tokens: Range<usize>) -> Result<Self> {
        // A copy of its own, so that the whole goes when the parts have gone on.
        let rows = |x: &Tensor, rows: &Range<usize>| x.narrow(0, rows.start, rows.len())?.force_contiguous();
        let here = |x: &Option<Tensor>| x.as_ref().map(|x| rows(x, &tokens)).transpose();
        let spans = self.spans.iter().filter(|span| tokens.contains(&span.own.start));
        let moved =
            |range: &Range<usize>| range.start.saturating_sub(tokens.start)..range.end.saturating_sub(tokens.start);
        let Aside { normed, attended, routing, mixed } = &self.aside;
        let of_input = match self.routed() {
            Some(routed) => routed.within(std::slice::from_ref(&tokens)).remove(0),
            None => tokens.clone(),
        };
        Ok(Self {
            hidden: rows(&self.hidden, &tokens)?,
            input: rows(&self.input, &of_input)?,
            spans: spans.map(|span| Span { prefix: moved(&span.prefix), own: moved(&span.own) }).collect(),
            expert: self.expert,
            aside: Aside {
                normed: here(normed)?,
                attended: here(attended)?,
                routing: routing.as_ref().map(|routing| Arc::new(routing.part(&tokens))),
                mixed: here(mixed)?,
            },
        })
    }
}

impl Block {
    /// The same for few rows, as [`Linear::by_rows`].
    pub fn by_rows(&self) -> Self {
        Self { linears: self.linears.iter().map(Linear::by_rows).collect(), ..self.clone() }
    }

    /// Takes a batch from the site before `site` to it.
    pub fn advance(&self, site: usize, flow: &mut Flow, ropes: &Ropes) -> Result<()> {
        let (spans, attention) = (flow.spans.clone(), self.attention(ropes));
        self.advance_by(site, flow, |q, k, v| attention.within(q, k, v, &spans))
    }

    fn attention(&self, ropes: &Ropes) -> Attention {
        let dtype = self.linears[self.spec.attention.inputs.first()].weight().dtype();
        Attention::new(&self.spec.attention, ropes, dtype)
    }

    /// As [`Block::advance`], where `attend` turns q, k and v into the heads' outputs.
    fn advance_by(
        &self,
        site: usize,
        flow: &mut Flow,
        attend: impl FnOnce(&Tensor, &Tensor, &Tensor) -> Result<Tensor>,
    ) -> Result<()> {
        match self.spec.sites[site].place {
            Place::AttentionInput => {
                flow.input = normed(&self.norms.before_attention, &flow.hidden)?;
                if self.spec.residual == Residual::OfNormed {
                    flow.hidden = flow.input.clone();
                }
            }
            Place::AttentionOutput => {
                let [q, k, v] = self.queries_keys_values(&flow.input)?;
                if self.spec.residual == Residual::Parallel && self.norms.before_feed_forward.is_none() {
                    flow.aside.normed = Some(flow.input.clone());
                }
                flow.input = attend(&q, &k, &v)?;
            }
            Place::FeedForwardInput => {
                self.add_attention(flow)?;
                flow.input = normed(&self.norms.before_feed_forward, &flow.hidden)?;
                if self.spec.residual == Residual::OfNormed {
                    flow.hidden = flow.input.clone();
                }
                if let (Some(experts), FeedForwardSpec::Experts(spec)) = (&self.experts, &self.spec.feed_forward) {
                    flow.aside.routing = Some(Arc::new(experts.route(spec, &flow.input)?));
                    flow.aside.normed = Some(flow.input.clone());
                    flow.aside.mixed = Some(flow.input.zeros_like()?);
                }
            }
            Place::FeedForwardOutput => {
                if let Some(normed) = flow.aside.normed.take() {
                    self.add_attention(flow)?;
                    flow.input = normed;
                }
                let FeedForwardSpec::One(feed) = &self.spec.feed_forward else {
                    unreachable!("experts have sites of their own")
                };
                flow.input = self.activated(feed, &flow.input)?;
            }
            Place::SharedOutput => {
                let shared = self.experts_spec().shared.as_ref().expect("a site of the shared expert");
                flow.input = self.activated(&shared.feed, &flow.input)?;
            }
            Place::ExpertInput(expert) => {
                self.add_expert(self.spec.sites[site - 1].place, flow)?;
                flow.expert = Some(expert);
                let routed = flow.routed().expect("tokens were routed");
                flow.input = routed.select(flow.aside.normed.as_ref().expect("what experts read"))?;
            }
            Place::ExpertOutput(expert) => {
                flow.input = self.activated(&self.experts_spec().experts[expert], &flow.input)?;
            }
        }
        Ok(())
    }

    /// What the linears of an expert's site would read if all tokens went through it: (tokens, columns).
    pub fn input_of_all(&self, site: usize, flow: &Flow) -> Result<Tensor> {
        let normed = flow.aside.normed.as_ref().unwrap_or(&flow.input);
        match self.spec.sites[site].place {
            Place::ExpertOutput(expert) => self.activated(&self.experts_spec().experts[expert], normed),
            Place::ExpertInput(_) => Ok(normed.clone()),
            _ => Ok(flow.input.clone()),
        }
    }

    /// The block's output, from a batch at the last site.
    pub fn finish(&self, mut flow: Flow) -> Result<Tensor> {
        let made = match &self.spec.feed_forward {
            FeedForwardSpec::One(feed) => self.linears[feed.down].forward(&flow.input)?,
            FeedForwardSpec::Experts(_) => {
                let last = self.spec.sites.last().expect("a block has sites").place;
                self.add_expert(last, &mut flow)?;
                flow.aside.mixed.take().expect("what experts made")
            }
        };
        let hidden = match flow.aside.attended.take() {
            Some(attended) => elementwise::add(&flow.hidden, &attended)?,
            None => flow.hidden,
        };
        self.added(&hidden, made, &self.norms.after_feed_forward)
    }

    /// The whole block: (tokens, hidden) → (tokens, hidden).
    pub fn forward(&self, hidden: Tensor, spans: &[Span], ropes: &Ropes) -> Result<Tensor> {
        let mut flow = Flow::new(hidden, spans.to_vec());
        for site in 0..self.spec.sites.len() {
            self.advance(site, &mut flow, ropes)?;
        }
        self.finish(flow)
    }

    /// The whole block for the next tokens of sequences: the rows `own` of sequence i follow what
    /// `caches[i]` holds, and are added to it. (tokens, hidden) → (tokens, hidden)
    pub fn decode(
        &self,
        hidden: Tensor,
        own: &[Range<usize>],
        caches: &mut [KvCache],
        ropes: &Ropes,
    ) -> Result<Tensor> {
        let mut flow = Flow::new(hidden, vec![]);
        let attention = self.attention(ropes);
        for site in 0..self.spec.sites.len() {
            let here = (own, &mut *caches);
            self.advance_by(site, &mut flow, |q, k, v| attention.after(q, k, v, here))?;
        }
        self.finish(flow)
    }

    /// q (tokens × query·dim), k and v (tokens × key_value·dim), normed where they are, and not turned yet.
    fn queries_keys_values(&self, x: &Tensor) -> Result<[Tensor; 3]> {
        let spec = &self.spec.attention;
        let [mut q, mut k, mut v] = match spec.inputs {
            Inputs::Separate(inputs) => Linear::forward_all(inputs.map(|index| &self.linears[index]), x)?,
            Inputs::Fused { linear, groups } => apart(&self.linears[linear].forward(x)?, spec.heads, groups)?,
        };
        if let Some(most) = spec.clip {
            [q, k, v] = [q.clamp(-most, most)?, k.clamp(-most, most)?, v.clamp(-most, most)?];
        }
        let of_heads = |norm: &Option<Norm>, over: Option<Over>, x: Tensor| match (norm, over) {
            (None, _) => Ok(x),
            (Some(norm), Some(Over::Row)) => norm.forward(&x),
            (Some(norm), _) => norm.forward_heads(&x, spec.heads.dim),
        };
        q = of_heads(&self.norms.q, spec.q_norm.as_ref().map(|norm| norm.over), q)?;
        k = of_heads(&self.norms.k, spec.k_norm.as_ref().map(|norm| norm.over), k)?;
        Ok([q, k, v])
    }

    /// Adds what attention makes, from a batch at its output.
    fn add_attention(&self, flow: &mut Flow) -> Result<()> {
        let made = self.linears[self.spec.attention.output].forward(&flow.input)?;
        match self.spec.residual {
            Residual::Parallel => flow.aside.attended = Some(self.scaled(made)?),
            _ => flow.hidden = self.added(&flow.hidden, made, &self.norms.after_attention)?,
        }
        Ok(())
    }

    /// `hidden` with what attention or feed-forward made of it, normed where there is a norm behind them.
    fn added(&self, hidden: &Tensor, made: Tensor, after: &Option<Norm>) -> Result<Tensor> {
        match self.spec.residual {
            Residual::PostNorm => normed(after, &elementwise::add(hidden, &self.scaled(made)?)?),
            _ => elementwise::add(hidden, &self.scaled(normed(after, &made)?)?),
        }
    }

    fn scaled(&self, made: Tensor) -> Result<Tensor> {
        match self.spec.branch_scale {
            Some(scale) => made * f64::from(scale),
            None => Ok(made),
        }
    }

    /// What is between a feed-forward's linears: activation(gate)·up, or activation(up). (rows, hidden) → (rows, columns)
    fn activated(&self, feed: &Feed, x: &Tensor) -> Result<Tensor> {
        let linear = |index: usize| &self.linears[index];
        if x.dim(0)? == 0 {
            return Tensor::zeros((0, linear(feed.down).weight().dim(1)?), x.dtype(), x.device());
        }
        match feed.inputs {
            FeedInputs::Gated { gate, up } => {
                let [gate, up] = Linear::forward_all([gate, up].map(linear), x)?;
                feed.activation.gated(&gate, &up)
            }
            FeedInputs::Fused { gate_up } => {
                let both = linear(gate_up).forward(x)?;
                let half = both.dim(1)? / 2;
                feed.activation.gated(&both.narrow(1, 0, half)?, &both.narrow(1, half, half)?)
            }
            FeedInputs::Plain { up } => feed.activation.of(&linear(up).forward(x)?),
        }
    }

    fn experts_spec(&self) -> &super::spec::ExpertsSpec {
        match &self.spec.feed_forward {
            FeedForwardSpec::Experts(experts) => experts,
            FeedForwardSpec::One(_) => unreachable!("the block has no experts"),
        }
    }

    /// Adds what an expert makes, from a batch at its output, to what all of them make.
    fn add_expert(&self, place: Place, flow: &mut Flow) -> Result<()> {
        let mixed = flow.aside.mixed.take().expect("what experts made");
        let down = |feed: &Feed, x: &Tensor| match x.dim(0)? {
            0 => Tensor::zeros((0, mixed.dim(1)?), x.dtype(), x.device()),
            _ => self.linears[feed.down].forward(x),
        };
        let spec = self.experts_spec();
        flow.aside.mixed = Some(match (place, &spec.shared) {
            (Place::ExpertOutput(expert), _) => {
                let made = down(&spec.experts[expert], &flow.input)?;
                flow.routed().expect("tokens were routed").add(&mixed, &made)?
            }
            (Place::SharedOutput, Some(shared)) => {
                let (experts, normed) = (self.experts.as_ref(), flow.aside.normed.as_ref());
                let (experts, normed) = experts.zip(normed).expect("tokens were routed");
                elementwise::add(&mixed, &experts.shared(normed, &down(&shared.feed, &flow.input)?)?)?
            }
            _ => mixed,
        });
        Ok(())
    }
}

fn normed(norm: &Option<Norm>, x: &Tensor) -> Result<Tensor> {
    match norm {
        Some(norm) => norm.forward(x),
        None => Ok(x.clone()),
    }
}

/// q, k and v of what one linear makes of all three, in so many groups: (tokens × (query + 2·key_value)·dim).
fn apart(made: &Tensor, heads: Heads, groups: usize) -> Result<[Tensor; 3]> {
    let tokens = made.dim(0)?;
    let (q, kv) = (heads.query / groups * heads.dim, heads.key_value / groups * heads.dim);
    let grouped = made.reshape((tokens, groups, q + 2 * kv))?;
    let part =
        |from: usize, width: usize| grouped.narrow(2, from, width)?.contiguous()?.reshape((tokens, groups * width));
    Ok([part(0, q)?, part(q, kv)?, part(q + kv, kv)?])
}
