//! Generation: many sequences decoded together, token by token, with cached keys and values.
//!
//! Decoding reads every weight once a step, whatever the number of sequences, so it is the batch that
//! makes it fast. Sequences are of unequal length and are not padded: their rows lie one after the other,
//! and attention goes sequence by sequence. One that ends makes room for the next that waits.

use std::collections::HashSet;
use std::ops::Range;

use anyhow::{Result, ensure};
use candle_core::{Device, Tensor};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;

use super::attention::KvCache;
use super::sampling::{Room, Sampling, loss};
use super::{Block, Embedding, Head, Ropes};
use crate::tensors;

/// A whole model in memory, ready to write.
#[derive(Clone, Copy)]
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

/// A text that is begun.
#[derive(Debug, Clone, Copy)]
pub struct Begun<'a> {
    pub ids: &'a [u32],
    /// The number of its stream of random numbers: with the seed it decides all that is drawn.
    pub stream: u64,
}

/// How a text was continued.
#[derive(Debug, Clone, PartialEq)]
pub struct Written {
    /// The new tokens; the last may be one that ends a text.
    pub ids: Vec<u32>,
    /// -ln p of every token but the first and the one that ends the text, summed, as the model has it before anything is
    /// penalized or left out; 0 where that was not asked for.
    pub loss: f64,
}

/// What texts are continued with.
pub struct Continuing<'a> {
    pub sampling: &'a Sampling,
    /// Bytes of keys and values at once.
    pub budget: u64,
    /// Whether losses are summed.
    pub scores: bool,
    /// Asked before a text, by its index, is begun; others are passed over.
    pub begins: &'a (dyn Fn(usize) -> bool + Sync),
    /// Asked after every token whether a text, by its index and its new tokens, is complete.
    pub ended: &'a (dyn Fn(usize, &[u32]) -> bool + Sync),
}

/// Tokens of prompts that go through the model at once.
fn prefill_tokens(device: &Device) -> usize {
    // On the CPU few rows are multiplied by kernels of their own.
    if device.is_cpu() { 256 } else { 2048 }
}

/// A sequence being decoded.
struct Sequence {
    index: usize,
    /// One a block.
    caches: Vec<KvCache>,
    /// Tokens that its caches have room for.
    room: usize,
    prompt: Vec<u32>,
    /// What goes through the model next: the prompt, then the token before.
    next: Vec<u32>,
    ids: Vec<u32>,
    loss: f64,
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
    /// As [`Generator::continue_texts`].
    pub fn generate(
        &self,
        prompts: &[&[u32]],
        sampling: &Sampling,
        budget: u64,
        ended: &(dyn Fn(usize, &[u32]) -> bool + Sync),
        step: impl FnMut(usize) -> Result<()>,
    ) -> Result<Generation> {
        let texts: Vec<Begun> = (prompts.iter().zip(0..)).map(|(ids, stream)| Begun { ids, stream }).collect();
        let mut ids = vec![vec![]; prompts.len()];
        let how = Continuing { sampling, budget, scores: false, begins: &|_| true, ended };
        let widest = self.continue_texts(&texts, &how, step, |index, written| {
            ids[index] = written.ids;
            Ok(())
        })?;
        Ok(Generation { ids, widest })
    }

    /// Continues texts, each until it is complete, and returns the most that were decoded together. `finished` is called
    /// with each as soon as it is, and with its index; `step` before every step with the number of complete ones. On the
    /// CPU what a text becomes depends on nothing but itself, its stream and the sampling: not on the other texts, on the
    /// budget, or on threads. On a GPU the products of a batch may be rounded otherwise than those of another, so that
    /// two tokens that are nearly as likely may change places.
    ///
    /// # Errors
    /// Where a text is empty, or too long for the rotary table; what `step` and `finished` return.
    pub fn continue_texts(
        &self,
        texts: &[Begun],
        how: &Continuing,
        mut step: impl FnMut(usize) -> Result<()>,
        mut finished: impl FnMut(usize, Written) -> Result<()>,
    ) -> Result<usize> {
        ensure!(texts.iter().all(|text| !text.ids.is_empty()), "a prompt has no tokens");
        let Continuing { sampling, budget, ended, .. } = *how;
        if sampling.max_new_tokens == 0 {
            let begun = (0..texts.len()).filter(|&index| (how.begins)(index));
            begun.into_iter().try_for_each(|index| finished(index, Written { ids: vec![], loss: 0.0 }))?;
            return Ok(0);
        }
        let (blocks, head) = (self.blocks.iter().map(Block::by_rows).collect::<Vec<_>>(), self.head.by_rows());
        let decoder = Generator { blocks: &blocks, head: &head, ..*self };
        let mut waiting: Vec<usize> = (0..texts.len()).rev().collect();
        waiting.sort_by_key(|&i| texts[i].ids.len()); // the longest is popped first
        let mut active: Vec<Sequence> = Vec::new();
        // What is shared is predicted once, for no text of its own.
        let shared = if how.scores { decoder.no_prefix() } else { decoder.shared_prefix(texts)? };
        let (mut done, mut widest) = (0, 0);
        while done < texts.len() {
            step(done)?;
            let before = active.len();
            let mut held: u64 = active.iter().map(|s| decoder.bytes(s.room)).sum();
            while let Some(&index) = waiting.last() {
                let room = texts[index].ids.len() + sampling.max_new_tokens;
                if held + decoder.bytes(room) > budget && !active.is_empty() {
                    break;
                }
                waiting.pop();
                if !(how.begins)(index) {
                    done += 1;
                    continue;
                }
                held += decoder.bytes(room);
                active.push(decoder.sequence(index, texts[index], (&shared, room), sampling)?);
            }
            widest = widest.max(active.len());
            let (old, mut new) = active.split_at_mut(before);
            decoder.turn_anew(old);
            decoder.advance(old, how)?;
            while !new.is_empty() {
                step(done)?;
                let mut tokens = 0;
                let most = prefill_tokens(self.embedding.device());
                let fits = |s: &&Sequence| (tokens += s.next.len(), tokens <= most).1;
                let count = new.iter().take_while(fits).count().max(1);
                let (batch, rest) = new.split_at_mut(count);
                decoder.advance(batch, how)?;
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
                let Sequence { index, ids, loss, .. } = active.remove(i);
                finished(index, Written { ids, loss })?;
                done += 1;
            }
        }
        Ok(widest)
    }

    fn no_prefix(&self) -> Vec<KvCache> {
        self.blocks.iter().map(|b| KvCache::new(b.spec.attention.heads, 0)).collect()
    }

    /// The caches of the tokens that all prompts begin with, such as an instruction or a template; at least one
    /// token of each prompt is left to predict from.
    fn shared_prefix(&self, texts: &[Begun]) -> Result<Vec<KvCache>> {
        let prompts: Vec<&[u32]> = texts.iter().map(|text| text.ids).collect();
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
        text: Begun,
        (shared, room): (&[KvCache], usize),
        sampling: &Sampling,
    ) -> Result<Sequence> {
        let mut random = ChaCha8Rng::seed_from_u64(sampling.seed);
        random.set_stream(text.stream);
        let caches = shared.iter().map(|cache| Ok(cache.with_room(room)?)).collect::<Result<_>>()?;
        let known = shared.first().map_or(0, KvCache::tokens);
        let penalizes = sampling.repetition_penalty != 1.0;
        let seen = if penalizes { text.ids.iter().copied().collect() } else { HashSet::new() };
        let next = text.ids[known..].to_vec();
        let prompt = text.ids.to_vec();
        Ok(Sequence { index, caches, room, prompt, next, ids: vec![], loss: 0.0, seen, random })
    }

    /// Begins sequences anew that outgrow a rotary table which is not to be mixed with the next.
    fn turn_anew(&self, sequences: &mut [Sequence]) {
        let Some(longest) = self.ropes.turned_anew_beyond() else { return };
        for sequence in sequences {
            let known = sequence.caches.first().map_or(0, KvCache::tokens);
            if (1..=longest).contains(&known) && known + sequence.next.len() > longest {
                let empty = |block: &Block| KvCache::new(block.spec.attention.heads, sequence.room);
                sequence.caches = self.blocks.iter().map(empty).collect();
                sequence.next = [sequence.prompt.as_slice(), &sequence.ids].concat();
                sequence.loss = 0.0;
            }
        }
    }

    /// Bytes of keys and values of this many tokens, over all blocks.
    fn bytes(&self, tokens: usize) -> u64 {
        // The CPU holds them in f32.
        let held = if self.embedding.device().is_cpu() { 4 } else { self.embedding.dtype().size_in_bytes() };
        let values = |block: &Block| 2 * block.spec.attention.heads.key_value * block.spec.attention.heads.dim;
        let a_token: usize = self.blocks.iter().map(|block| values(block) * held).sum();
        a_token as u64 * tokens as u64
    }

    /// Takes what comes next of each sequence through the model, and adds the token that it predicts.
    fn advance(&self, sequences: &mut [Sequence], how: &Continuing) -> Result<()> {
        if sequences.is_empty() {
            return Ok(());
        }
        let ids: Vec<u32> = sequences.iter().flat_map(|s| s.next.iter().copied()).collect();
        let mut at = 0;
        let own: Vec<Range<usize>> = sequences.iter().map(|s| (at, at += s.next.len(), at)).map(|r| r.0..r.2).collect();
        let mut caches: Vec<&mut Vec<KvCache>> = sequences.iter_mut().map(|s| &mut s.caches).collect();
        let hidden = self.forward(&ids, &own, &mut caches)?;
        // The last row predicts the token to come, and where losses are asked for the others those that there are.
        let predicting = |own: &Range<usize>| if how.scores { own.clone() } else { own.end - 1..own.end };
        let rows: Vec<u32> = own.iter().flat_map(|own| predicting(own).map(|row| row as u32)).collect();
        let hidden = hidden.index_select(&Tensor::new(rows, hidden.device())?, 0)?;
        let logits = self.head.logits(&hidden)?; // (rows, vocabulary)
        let vocabulary = logits.dim(1)?;
        tensors::with_values(&logits, |logits| {
            let mut logits = logits;
            let of_sequence = |own: &Range<usize>| {
                let (here, rest) = logits.split_at(predicting(own).len() * vocabulary);
                (here, logits = rest).0
            };
            let each: Vec<(&mut Sequence, &[f32])> = sequences.iter_mut().zip(own.iter().map(of_sequence)).collect();
            each.into_par_iter().for_each_init(Room::default, |room, (sequence, logits)| {
                sequence.add(logits, vocabulary, how, room);
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

impl Sequence {
    /// Chooses the next token by the last of its logits, (rows × vocabulary); the others are of the tokens that follow each
    /// other in `next`.
    fn add(&mut self, logits: &[f32], vocabulary: usize, how: &Continuing, room: &mut Room) {
        let sampling = how.sampling;
        let (known, last) = logits.split_at(logits.len() - vocabulary);
        let token = sampling.choose(last, &self.seen, &mut self.random, room);
        if how.scores {
            let known = known.chunks_exact(vocabulary).zip(&self.next[1..]);
            self.loss += known.map(|(logits, &id)| loss(logits, id)).sum::<f64>();
            if !sampling.end.contains(&token) {
                self.loss += loss(last, token);
            }
        }
        if sampling.repetition_penalty != 1.0 {
            self.seen.insert(token);
        }
        self.ids.push(token);
        self.next = vec![token];
    }
}
