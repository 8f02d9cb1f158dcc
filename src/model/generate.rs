//! Generation: many sequences decoded together, token by token, with cached keys and values.
//!
//! Decoding reads every weight once a step, whatever the number of sequences, so it is the batch that
//! makes it fast. Sequences are of unequal length and are not padded: their rows lie one after the other,
//! and attention goes sequence by sequence. One that ends makes room for the next that waits.

use std::collections::HashSet;
use std::ops::Range;

use anyhow::{Result, ensure};
use candle_core::Tensor;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;

use super::attention::KvCache;
use super::sampling::{Room, Sampling};
use super::{Block, Embedding, Head, Ropes};
use crate::tensors;

/// A whole model in memory, ready to write.
pub struct Generator<'a> {
    pub blocks: &'a [Block],
    pub embedding: &'a Embedding,
    pub head: &'a Head,
    pub ropes: &'a Ropes,
}

/// What was generated for all prompts.
#[derive(Debug, Clone, PartialEq)]
pub struct Generation {
    /// The new tokens of each prompt; the last may be one that ends a text.
    pub ids: Vec<Vec<u32>>,
    /// The most sequences that were decoded together.
    pub widest: usize,
}

/// Tokens of prompts that go through the model at once.
const PREFILL_TOKENS: usize = 2048;

/// A sequence being decoded.
struct Sequence {
    index: usize,
    /// One a block.
    caches: Vec<KvCache>,
    /// Tokens that its caches have room for.
    room: usize,
    /// What goes through the model next: the prompt, then the token before.
    next: Vec<u32>,
    ids: Vec<u32>,
    /// The tokens of the prompt and the answer, where repetition is penalized.
    seen: HashSet<u32>,
    random: ChaCha8Rng,
}

impl Generator<'_> {
    /// Continues every prompt, the longest first, as many at once as have room for their keys and values
    /// in `budget` bytes (one at least). `ended` is asked after every token whether a sequence (its prompt's
    /// index, its new tokens) is complete; `step` is called before every step with the number of complete ones.
    ///
    /// # Errors
    /// Where a prompt is empty, or too long for the rotary table; what `step` returns.
    pub fn generate(
        &self,
        prompts: &[&[u32]],
        sampling: &Sampling,
        budget: u64,
        ended: &(dyn Fn(usize, &[u32]) -> bool + Sync),
        mut step: impl FnMut(usize) -> Result<()>,
    ) -> Result<Generation> {
        ensure!(prompts.iter().all(|p| !p.is_empty()), "a prompt has no tokens");
        let mut ids = vec![vec![]; prompts.len()];
        if sampling.max_new_tokens == 0 {
            return Ok(Generation { ids, widest: 0 });
        }
        let mut waiting: Vec<usize> = (0..prompts.len()).collect();
        waiting.sort_by_key(|&i| prompts[i].len()); // the longest is popped first
        let mut active: Vec<Sequence> = Vec::new();
        let shared = self.shared_prefix(prompts)?;
        let (mut done, mut widest) = (0, 0);
        while done < prompts.len() {
            step(done)?;
            let before = active.len();
            let mut held: u64 = active.iter().map(|s| self.bytes(s.room)).sum();
            while let Some(&index) = waiting.last() {
                let room = prompts[index].len() + sampling.max_new_tokens;
                if held + self.bytes(room) > budget && !active.is_empty() {
                    break;
                }
                held += self.bytes(room);
                waiting.pop();
                active.push(self.sequence(index, prompts[index], (&shared, room), sampling)?);
            }
            widest = widest.max(active.len());
            let (old, mut new) = active.split_at_mut(before);
            self.advance(old, sampling)?;
            while !new.is_empty() {
                step(done)?;
                let mut tokens = 0;
                let fits = |s: &&Sequence| (tokens += s.next.len(), tokens <= PREFILL_TOKENS).1;
                let count = new.iter().take_while(fits).count().max(1);
                let (batch, rest) = new.split_at_mut(count);
                self.advance(batch, sampling)?;
                new = rest;
            }
            let complete: Vec<bool> = active
                .par_iter()
                .map(|s| {
                    let last = s.ids[s.ids.len() - 1];
                    s.ids.len() == sampling.max_new_tokens || sampling.end.contains(&last) || ended(s.index, &s.ids)
                })
                .collect();
            for i in (0..active.len()).rev().filter(|&i| complete[i]) {
                let sequence = active.remove(i);
                ids[sequence.index] = sequence.ids;
                done += 1;
            }
        }
        Ok(Generation { ids, widest })
    }

    /// The caches of the tokens that all prompts begin with, such as an instruction or a template; at least one
    /// token of each prompt is left to predict from.
    fn shared_prefix(&self, prompts: &[&[u32]]) -> Result<Vec<KvCache>> {
        let common = |a: &[u32], b: &[u32]| a.iter().zip(b).take_while(|(a, b)| a == b).count();
        let shortest = prompts.iter().map(|p| p.len() - 1).min().unwrap_or(0);
        let mut shared = prompts.iter().map(|p| common(p, prompts[0])).min().unwrap_or(0).min(shortest);
        // A prompt may be so long that its rotary tables are others, those of what it shares too.
        if prompts.iter().any(|p| p.len() > self.ropes.alike_up_to()) {
            shared = 0;
        }
        let mut caches: Vec<KvCache> =
            self.blocks.iter().map(|b| KvCache::new(b.spec.attention.heads, shared)).collect();
        if prompts.len() > 1 && shared > 0 {
            self.forward(&prompts[0][..shared], std::slice::from_ref(&(0..shared)), &mut [&mut caches])?;
        }
        Ok(caches)
    }

    fn sequence(
        &self,
        index: usize,
        prompt: &[u32],
        (shared, room): (&[KvCache], usize),
        sampling: &Sampling,
    ) -> Result<Sequence> {
        let mut random = ChaCha8Rng::seed_from_u64(sampling.seed);
        random.set_stream(index as u64);
        let caches = shared.iter().map(|cache| Ok(cache.with_room(room)?)).collect::<Result<_>>()?;
        let known = shared.first().map_or(0, KvCache::tokens);
        let seen = if sampling.repetition_penalty == 1.0 { HashSet::new() } else { prompt.iter().copied().collect() };
        Ok(Sequence { index, caches, room, next: prompt[known..].to_vec(), ids: vec![], seen, random })
    }

    /// Bytes of keys and values of this many tokens, over all blocks.
    fn bytes(&self, tokens: usize) -> u64 {
        let held = self.embedding.dtype().size_in_bytes();
        let values = |block: &Block| 2 * block.spec.attention.heads.key_value * block.spec.attention.heads.dim;
        let a_token: usize = self.blocks.iter().map(|block| values(block) * held).sum();
        a_token as u64 * tokens as u64
    }

    /// Takes what comes next of each sequence through the model, and adds the token that it predicts.
    fn advance(&self, sequences: &mut [Sequence], sampling: &Sampling) -> Result<()> {
        if sequences.is_empty() {
            return Ok(());
        }
        let ids: Vec<u32> = sequences.iter().flat_map(|s| s.next.iter().copied()).collect();
        let mut at = 0;
        let own: Vec<Range<usize>> = sequences.iter().map(|s| (at, at += s.next.len(), at)).map(|r| r.0..r.2).collect();
        let mut caches: Vec<&mut Vec<KvCache>> = sequences.iter_mut().map(|s| &mut s.caches).collect();
        let hidden = self.forward(&ids, &own, &mut caches)?;
        let last: Vec<u32> = own.iter().map(|range| range.end as u32 - 1).collect();
        let last = hidden.index_select(&Tensor::new(last, hidden.device())?, 0)?;
        let logits = self.head.logits(&last)?; // (sequences, vocabulary)
        let vocabulary = logits.dim(1)?;
        tensors::with_values(&logits, |logits| {
            let chosen = sequences.par_iter_mut().zip(logits.par_chunks(vocabulary));
            chosen.for_each_init(Room::default, |room, (sequence, logits)| {
                let token = sampling.choose(logits, &sequence.seen, &mut sequence.random, room);
                if sampling.repetition_penalty != 1.0 {
                    sequence.seen.insert(token);
                }
                sequence.ids.push(token);
                sequence.next = vec![token];
            });
        })?;
        Ok(())
    }

    /// Takes the next tokens of sequences, the ranges `own` of `ids`, through all blocks: (tokens, hidden). The
    /// caches are one a block for each sequence.
    fn forward(&self, ids: &[u32], own: &[Range<usize>], caches: &mut [&mut Vec<KvCache>]) -> Result<Tensor> {
        let before = |sequence: usize| caches[sequence].first().map_or(0, KvCache::tokens);
        let positions = own.iter().enumerate().flat_map(|(i, own)| (0..own.len()).map(move |at| before(i) + at));
        let mut hidden = self.embedding.embed(ids, positions)?;
        for (i, block) in self.blocks.iter().enumerate() {
            // The caches of this block, side by side while it is passed.
            let mut here: Vec<KvCache> = caches.iter_mut().map(|caches| std::mem::take(&mut caches[i])).collect();
            hidden = block.decode(hidden, own, &mut here, self.ropes)?;
            caches.iter_mut().zip(here).for_each(|(caches, cache)| caches[i] = cache);
        }
        Ok(hidden)
    }
}
