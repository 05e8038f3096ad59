//! The walk over a log when it is opened: reads every batch in order and collects the evidence.
//!
//! 1. [`survey`]: lists and syncs the files (what is only in the page cache must not be believed), reads
//!    each segment's header and first batch. Where a segment's records end is what the first batch of the
//!    next one says; batches behind that are orphans of an earlier start and are never looked at.
//! 2. [`Scan::run`]: walks the chain. Where it stops, it probes everything behind for valid batches and asks
//!    the table of [`recovery`](crate::recovery). After damage it goes on with the next valid batch.

mod skip;

use futures_util::StreamExt;
use futures_util::stream;

use crate::error::{Fault, OpenError};
use crate::format::{
    self, BatchHeader, Chain, FIRST_BATCH_OFFSET, FLAG_CLOSE, FORMAT_VERSION, Flaw, SegmentHeader,
    SegmentId,
};
use crate::limits::{BLOCK_BYTES, SURVEYED_AT_ONCE};
use crate::reader::{Range, Reader};
use crate::recovery::{Evidence, Extent, Files, Label, Later, Names, Stop, label};
use crate::segment::{self, FileName};
use crate::summary::Last;
use crate::{AlignedBuf, Disk, DiskFile, Lsn, OpenMode, Replay, SegmentInfo, transfer};

/// A segment, before its batches are read.
pub(crate) struct Segment<F> {
    pub(crate) sequence: u64,
    file: F,
    name: String,
    /// Bytes of the file.
    size: u64,
    /// `None` if it has no valid header.
    pub(crate) id: Option<SegmentId>,
    /// Header of its first batch, if that is valid.
    first: Option<BatchHeader>,
}

/// The files of a log's directory.
pub(crate) struct Survey<F> {
    /// Ordered by sequence.
    pub(crate) segments: Vec<Segment<F>>,
    /// Files that may become segments of the wanted size.
    pub(crate) spares: Vec<String>,
    /// The highest generation that any file speaks of.
    pub(crate) generation: u64,
    /// The wanted size.
    pub(crate) segment_bytes: u64,
}

/// Lists the directory, refuses what is not this log, and removes what is of no use.
pub(crate) async fn survey<D: Disk>(
    disk: &D,
    log_id: &[u8; 16],
    segment_bytes: u64,
) -> Result<Survey<D::File>, OpenError> {
    segment::sync_dir(disk).await?;
    let names =
        disk.list().await.map_err(|error| Fault::new("listing", "the log's directory", error))?;
    let mut names: Vec<FileName> = names.iter().filter_map(|name| FileName::parse(name)).collect();
    names.sort_unstable();
    let mut survey =
        Survey { segments: Vec::new(), spares: Vec::new(), generation: 0, segment_bytes };
    let sequences = names.iter().filter_map(|name| match name {
        FileName::Segment(sequence) => Some(*sequence),
        _ => None,
    });
    let looks = stream::iter(sequences).map(|sequence| look(disk, log_id, sequence));
    let mut looks = std::pin::pin!(looks.buffered(SURVEYED_AT_ONCE));
    while let Some(segment) = looks.next().await {
        let segment = segment?;
        if let Some(id) = &segment.id {
            survey.generation = survey.generation.max(id.generation);
        }
        survey.segments.push(segment);
    }
    for &name in &names {
        let text = name.text();
        let useful = match name {
            FileName::Segment(_) => continue,
            FileName::Fill(_) => false,
            FileName::Spare(_) => {
                let (size, generation) = look_at_spare(disk, log_id, &text).await?;
                survey.generation = survey.generation.max(generation);
                size == segment_bytes
            }
        };
        if useful {
            survey.spares.push(text);
        } else {
            let fill = matches!(name, FileName::Fill(_));
            sometimes!(recovery_fill_removed, fill);
            sometimes!(recovery_spare_removed, !fill);
            disk.remove(&text).await.map_err(|error| Fault::new("removing", &text, error))?;
        }
    }
    Ok(survey)
}

async fn look<D: Disk>(
    disk: &D,
    log_id: &[u8; 16],
    sequence: u64,
) -> Result<Segment<D::File>, OpenError> {
    let name = &FileName::Segment(sequence).text();
    let file = disk
        .open(name, OpenMode::Existing)
        .await
        .map_err(|error| Fault::new("opening", name, error))?;
    #[cfg(not(mutant = "unsynced-batch-recovered"))]
    file.sync().await.map_err(|error| Fault::new("syncing", name, error))?;
    let size = file.size().await.map_err(|error| Fault::new("looking at", name, error))?;
    let (result, head) =
        transfer::read(&file, 0, AlignedBuf::zeroed(2 * BLOCK_BYTES), 2 * BLOCK_BYTES).await;
    let got = result.map_err(|error| Fault::new("reading", name, error))?;
    let head = &head[..got];
    let id = match format::decode_segment_header(head, log_id) {
        SegmentHeader::Ours(id) if id.sequence == sequence && id.bytes <= size => Some(id),
        SegmentHeader::Ours(_) | SegmentHeader::Unreadable => None,
        SegmentHeader::Foreign { found } => {
            debug_assert_eq!(refusal(Files::Foreign), Label::Foreign);
            return Err(OpenError::Foreign { file: name.to_owned(), found, expected: *log_id });
        }
        SegmentHeader::Newer { version } => {
            debug_assert_eq!(refusal(Files::Newer), Label::Newer);
            let (file, supported) = (name.to_owned(), FORMAT_VERSION);
            return Err(OpenError::Newer { file, version, supported });
        }
    };
    sometimes!(recovery_unreadable_header, id.is_none());
    let mut segment = Segment { sequence, file, name: name.to_owned(), size, id, first: None };
    segment.first = first_batch(&segment, head).await?;
    Ok(segment)
}

/// The header of a segment's first batch, if the batch is whole.
async fn first_batch<F: DiskFile>(
    segment: &Segment<F>,
    head: &[u8],
) -> Result<Option<BatchHeader>, Fault> {
    let Some(id) = &segment.id else { return Ok(None) };
    let Some(block) = head.get(BLOCK_BYTES..) else { return Ok(None) };
    let Ok(header) = format::decode_batch_header(block, id, FIRST_BATCH_OFFSET) else {
        return Ok(None);
    };
    let limit = FIRST_BATCH_OFFSET + header.padded_bytes() as u64;
    let mut reader = Reader::new([segment.range(0, FIRST_BATCH_OFFSET, Some(limit))]);
    Ok(match next_batch(&mut reader, id, FIRST_BATCH_OFFSET).await? {
        Ok((header, _)) => Some(header),
        Err(_) => None,
    })
}

/// Size of a spare file, and the generation of the segment that it once was, if any.
async fn look_at_spare<D: Disk>(
    disk: &D,
    log_id: &[u8; 16],
    name: &str,
) -> Result<(u64, u64), OpenError> {
    let file = disk
        .open(name, OpenMode::Existing)
        .await
        .map_err(|error| Fault::new("opening", name, error))?;
    let size = file.size().await.map_err(|error| Fault::new("looking at", name, error))?;
    let (result, block) =
        transfer::read(&file, 0, AlignedBuf::zeroed(BLOCK_BYTES), BLOCK_BYTES).await;
    let got = result.map_err(|error| Fault::new("reading", name, error))?;
    let generation = match format::decode_segment_header(&block[..got], log_id) {
        SegmentHeader::Ours(id) => id.generation,
        _ => 0,
    };
    Ok((size, generation))
}

fn refusal(files: Files) -> Label {
    label(Evidence { files, names: Names::Complete, stop: Stop::Blank, later: Later::Nothing })
}

/// The batch under the reader's cursor, which stands at `offset` of segment `id`, with all its bytes.
async fn next_batch<'r, F: DiskFile>(
    reader: &'r mut Reader<F>,
    id: &SegmentId,
    offset: u64,
) -> Result<Result<(BatchHeader, &'r [u8]), Flaw>, Fault> {
    let header = match format::decode_batch_header(reader.peek(BLOCK_BYTES).await?, id, offset) {
        Ok(header) => header,
        Err(flaw) => return Ok(Err(flaw)),
    };
    let bytes = reader.peek(header.padded_bytes()).await?;
    let valid =
        cfg!(mutant = "records-unverified") || format::records_are_valid(bytes, id, &header);
    if bytes.len() < header.padded_bytes() || !valid {
        return Ok(Err(Flaw::Broken));
    }
    Ok(Ok((header, bytes)))
}

impl<F: DiskFile> Segment<F> {
    /// The part of the file from `offset` to `limit`, or to its end.
    fn range(&self, index: usize, offset: u64, limit: Option<u64>) -> Range<F> {
        let end = self.id.map_or(0, |id| id.bytes);
        Range {
            file: self.file.clone(),
            name: self.name.clone(),
            segment: index,
            from: offset,
            to: limit.unwrap_or(end).min(end),
        }
    }
}

/// A place in the log: index of the segment, offset in its file.
type Place = (usize, u64);

/// Where the walk stopped.
struct Halt {
    place: Place,
    stop: Stop,
    /// A valid batch that names another one as the one before it than the one that is there.
    unlinked: Option<BatchHeader>,
}

/// What lies behind a stop.
#[derive(Default)]
struct Probe {
    next: Option<Place>,
    durable: Lsn,
}

/// A segment that holds records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Live {
    pub(crate) sequence: u64,
    /// `None` if it has no valid header.
    pub(crate) id: Option<SegmentId>,
    pub(crate) start: Lsn,
    /// Where its records end.
    pub(crate) end: Lsn,
    /// Of the file.
    pub(crate) bytes: u64,
    /// It is kept only in case that its damage can be mended.
    pub(crate) lost: bool,
}

impl Live {
    /// A segment of this log with batches up to `end`.
    pub(crate) fn new(id: &SegmentId, end: Lsn) -> Self {
        let SegmentId { sequence, base, bytes, .. } = *id;
        Self { sequence, id: Some(*id), start: base, end, bytes, lost: false }
    }

    pub(crate) fn info(&self) -> SegmentInfo {
        let Self { sequence, start, end, bytes, .. } = *self;
        SegmentInfo { sequence, start, end, bytes }
    }
}

/// A walk over a log, and what it found so far.
pub(crate) struct Scan<'s, F> {
    segments: &'s [Segment<F>],
    /// The last valid batch.
    last: Option<Last>,
    /// Everything before it is known to have been durable.
    pub(crate) known_durable: Lsn,
    pub(crate) records: u64,
    pub(crate) batches: u64,
    pub(crate) bytes: u64,
    /// Segments whose summary was taken for their batches.
    pub(crate) summarized: u64,
    pub(crate) damage: Vec<Extent>,
    pub(crate) cut: Option<Extent>,
    /// Segments with records, in order.
    pub(crate) live: Vec<Live>,
    /// The highest claim of all batches, once everything was probed.
    claim: Option<Lsn>,
}

impl<'s, F: DiskFile> Scan<'s, F> {
    pub(crate) fn new(segments: &'s [Segment<F>]) -> Self {
        Self {
            segments,
            last: None,
            known_durable: Lsn(0),
            records: 0,
            batches: 0,
            bytes: 0,
            summarized: 0,
            damage: Vec::new(),
            cut: None,
            live: Vec::new(),
            claim: None,
        }
    }

    /// The link to the last valid batch.
    pub(crate) fn chain(&self) -> Chain {
        self.last.map(|last| last.chain).unwrap_or_default()
    }

    /// Whether the last valid batch is the mark of an orderly end.
    pub(crate) fn is_closed(&self) -> bool {
        self.last.is_some_and(|last| last.flags & FLAG_CLOSE != 0)
    }

    /// Records before this position had been given up.
    pub(crate) fn trimmed(&self) -> Lsn {
        self.last.map(|last| last.trimmed).unwrap_or_default()
    }

    /// Whether valid batches follow behind each stretch that is damaged.
    pub(crate) fn is_damage_bounded(&self) -> bool {
        let end = self.chain().end;
        self.damage.iter().all(|lost| lost.from < lost.to && lost.to < end)
    }

    /// Walks the whole log and gives its records to `replay`. Returns the label of its end, or of the
    /// worst that was met.
    pub(crate) async fn run(&mut self, replay: &mut dyn Replay) -> Result<Label, Fault> {
        if self.segments.is_empty() {
            return Ok(refusal(Files::None));
        }
        let mut place = (0, FIRST_BATCH_OFFSET);
        let end = loop {
            let halt = self.walk(place, replay).await?;
            let probe = match self.impostor(&halt) {
                Some(_) => Probe { next: Some(halt.place), durable: Lsn(u64::MAX) },
                None => self.probe(&halt).await?,
            };
            let later = match probe.next {
                #[cfg(mutant = "rot-cut-as-tail")]
                Some(_) if halt.stop == Stop::Broken => Later::Pending,
                #[cfg(mutant = "hole-cut-as-tail")]
                Some(_) if halt.stop == Stop::Blank => Later::Pending,
                _ if probe.durable > self.lsn(halt.place) => Later::Durable,
                None => Later::Nothing,
                Some(_) => Later::Pending,
            };
            sometimes!(recovery_hole_in_tail, later == Later::Pending);
            sometimes!(recovery_unlinked_batch, halt.unlinked.is_some());
            sometimes!(recovery_broken_batch, halt.stop == Stop::Broken && halt.unlinked.is_none());
            let names = self.names(&halt, probe.next, later);
            let found = label(Evidence { files: Files::Ours, names, stop: halt.stop, later });
            if found == Label::TornTail {
                self.cut = Some(self.extent(halt.place, None));
            }
            if found != Label::Damage {
                break found;
            }
            let mut lost = self.extent(halt.place, probe.next);
            if let Some(segment) = self.unreadable(&halt, probe.next) {
                (lost.segment, lost.offset) = (segment.name.clone(), 0);
            } else if let Some(last) = self.last_damaged(&halt, probe.next) {
                lost.segment = format!("{} or {}", last.name, lost.segment);
            }
            if let Some(position) = self.impostor(&halt) {
                lost.from = position;
            }
            self.damage.push(lost);
            match probe.next {
                Some(next) => place = next,
                None => break found,
            }
        };
        self.check_head();
        self.keep_lost();
        Ok(if self.damage.is_empty() { end } else { Label::Damage })
    }

    /// Reads batches in order from `place` on, until one is missing or broken. The first one after a
    /// hole is taken without its link to the one before.
    async fn walk(&mut self, place: Place, replay: &mut dyn Replay) -> Result<Halt, Fault> {
        let segments = self.segments;
        let mut here = self.skip(place, false, replay).await?;
        let mut linked = here != place;
        let mut reader = Reader::new(self.ranges(here));
        loop {
            if self.limit(here.0) == Some(here.1) {
                // The first batch of the next segment says that this one ends here.
                sometimes!(recovery_next_start, self.is_cut_short(here.0));
                let next = (here.0 + 1, FIRST_BATCH_OFFSET);
                here = self.skip(next, linked, replay).await?;
                if here != next {
                    linked = true;
                    reader = Reader::new(self.ranges(here));
                }
            }
            let Some(id) = &segments[here.0].id else {
                return Ok(self.halt(here, Flaw::Broken));
            };
            if reader.place().await? != Some(here) {
                return Ok(self.halt(here, Flaw::Blank));
            }
            let (header, bytes) = match next_batch(&mut reader, id, here.1).await? {
                Ok(batch) => batch,
                Err(flaw) => return Ok(self.halt(here, flaw)),
            };
            let follows =
                header.prev == self.chain() || cfg!(mutant = "misdirected-write-accepted");
            if linked && !follows {
                let unlinked = Some(header);
                return Ok(Halt { unlinked, ..self.halt(here, Flaw::Broken) });
            }
            if header.position < self.chain().end {
                // Behind a hole only: segments whose positions contradict each other.
                return Ok(self.halt(here, Flaw::Broken));
            }
            format::visit_records(bytes, &header, &mut |record| replay.record(record));
            self.take(id, &header);
            linked = true;
            reader.consume(header.padded_bytes());
            here.1 += header.padded_bytes() as u64;
        }
    }

    fn take(&mut self, id: &SegmentId, header: &BatchHeader) {
        self.records += u64::from(header.records);
        self.batches += 1;
        self.bytes += header.padded_bytes() as u64;
        self.known_durable = self.known_durable.max(header.durable);
        if header.flags & FLAG_CLOSE != 0 {
            self.known_durable = header.end();
        }
        self.last = Some(Last::of(header));
        match self.live.last_mut() {
            Some(live) if live.sequence == id.sequence => live.end = header.end(),
            _ => self.live.push(Live::new(id, header.end())),
        }
    }

    fn halt(&self, place: Place, flaw: Flaw) -> Halt {
        let closed = self.is_closed();
        let stop = match flaw {
            Flaw::Broken => Stop::Broken,
            Flaw::Blank if closed => Stop::Closed,
            Flaw::Blank => Stop::Blank,
        };
        Halt { place, stop, unlinked: None }
    }

    /// Where the last batch starts, if the one at the stop says that it was durable and that it was not
    /// the one that is there now: a write was lost or went to the wrong place.
    fn impostor(&self, halt: &Halt) -> Option<Lsn> {
        let last = self.last?.position;
        halt.unlinked.filter(|header| header.durable > last).map(|_| last)
    }

    /// Looks for valid batches behind a stop: the next one, and what the last ones say.
    async fn probe(&mut self, halt: &Halt) -> Result<Probe, Fault> {
        let (index, offset) = halt.place;
        if halt.stop == Stop::Closed && self.is_untouched_behind(index) {
            return Ok(Probe::default());
        }
        let mut probe = Probe::default();
        let mut reader = Reader::new(self.ranges((index, offset)));
        while let Some(place) = reader.place().await? {
            let Some(id) = &self.segments[place.0].id else { break };
            let stray = self.stray(reader.peek(BLOCK_BYTES).await?, place);
            probe.durable = probe.durable.max(stray.unwrap_or_default());
            if place == halt.place {
                reader.consume(BLOCK_BYTES);
                continue;
            }
            match next_batch(&mut reader, id, place.1).await? {
                Ok((header, _)) => {
                    probe.next.get_or_insert(place);
                    probe.durable = probe.durable.max(header.durable);
                    if let Some(claim) = self.claim {
                        // Claims grow with positions: the highest one lies behind this hole, too.
                        probe.durable = claim;
                        return Ok(probe);
                    }
                    reader.consume(header.padded_bytes());
                }
                Err(_) => reader.consume(BLOCK_BYTES),
            }
        }
        self.claim = Some(probe.durable);
        Ok(probe)
    }

    /// What the header of a batch says was durable that lies at `place` and belongs further on. No crash
    /// puts it there, as no position is used twice: its write went to the wrong place, and what it says is
    /// all that is known of it.
    fn stray(&self, block: &[u8], place: Place) -> Option<Lsn> {
        let position = format::claimed_position(block)?;
        let mut known = self.segments.iter().filter_map(|segment| segment.id);
        let id = known.rfind(|id| id.base < position && position < id.end())?;
        if position <= self.lsn(place) {
            return None; // of the right place, or of the file's earlier use
        }
        let offset = position.0 - id.base.0;
        format::decode_batch_header(block, &id, offset).ok().map(|header| header.durable)
    }

    /// Whether all segments behind `index` are prepared ones of its own generation. Behind the mark of an
    /// orderly end these are known to be unused, without reading them.
    fn is_untouched_behind(&self, index: usize) -> bool {
        let generation = self.segments[index].id.map(|id| id.generation);
        self.segments[index + 1..].iter().all(|segment| {
            segment.first.is_none() && segment.id.map(|id| id.generation) == generation
        })
    }

    /// Whether a segment is missing or unreadable between a stop and the next valid batch; or anywhere
    /// behind the stop, if the log may have to be cut there: nothing tells what an unreadable segment held.
    fn names(&self, halt: &Halt, next: Option<Place>, later: Later) -> Names {
        let reach = next.filter(|_| later == Later::Durable);
        if self.unreadable(halt, reach).is_some() {
            return Names::Unreadable;
        }
        if let Some((index, _)) = next
            && index > halt.place.0
            && let Some(first) = &self.segments[index].first
            && !self.holds(index - 1, first.prev.end)
        {
            return Names::Missing;
        }
        // Every generation writes a batch to its first segment before it prepares others.
        let begun = self.last.is_some() || next.is_some();
        if !begun && self.segments.iter().any(|segment| segment.sequence > 1) {
            return Names::Missing;
        }
        Names::Complete
    }

    /// The first segment without a valid header between a stop and the next valid batch.
    fn unreadable(&self, halt: &Halt, next: Option<Place>) -> Option<&'s Segment<F>> {
        let to = next.map_or(self.segments.len() - 1, |next| next.0);
        let between = &self.segments[halt.place.0..=to];
        between.iter().find(|segment| segment.id.is_none())
    }

    /// Whether batches of segment `index` may end at `end`.
    fn holds(&self, index: usize, end: Lsn) -> bool {
        self.segments[index].id.is_some_and(|id| id.base < end && end <= id.end())
    }

    /// Where the records of segment `index` end, if the first batch of the next one says it.
    fn limit(&self, index: usize) -> Option<u64> {
        if cfg!(mutant = "cut-comes-back") {
            return None;
        }
        let end = self.segments.get(index + 1)?.first.as_ref()?.prev.end;
        self.holds(index, end).then(|| end.0 - self.segments[index].id.map_or(0, |id| id.base.0))
    }

    /// Whether a later start of the log cut segment `index`: it goes on in another generation.
    fn is_cut_short(&self, index: usize) -> bool {
        let generation = |at: usize| self.segments.get(at)?.id.map(|id| id.generation);
        generation(index) != generation(index + 1)
    }

    fn ranges(&self, (index, offset): Place) -> Vec<Range<F>> {
        let behind = index + 1..self.segments.len();
        let from_start = behind.map(|index| (index, FIRST_BATCH_OFFSET));
        std::iter::once((index, offset))
            .chain(from_start)
            .map(|(index, offset)| self.segments[index].range(index, offset, self.limit(index)))
            .collect()
    }

    /// The position of a place; what is unreadable lies behind the last valid batch.
    fn lsn(&self, (index, offset): Place) -> Lsn {
        match &self.segments[index].id {
            Some(id) => id.lsn(offset),
            None => self.chain().end,
        }
    }

    fn extent(&self, from: Place, to: Option<Place>) -> Extent {
        let segment = &self.segments[from.0];
        let start = self.lsn(from);
        let to = match to {
            Some(to) => self.lsn(to),
            None => segment.id.map_or(start, |id| id.end()),
        };
        Extent { segment: segment.name.clone(), offset: from.1, from: start, to }
    }

    /// The last segment that is damaged, if it is another one than that in which the damage seems to begin:
    /// where a segment's records end is what the next one says, so a stretch that nothing tells of may
    /// just be the unused end of a whole segment.
    fn last_damaged(&self, halt: &Halt, next: Option<Place>) -> Option<&'s Segment<F>> {
        let (index, offset) = next?;
        let last = if offset == FIRST_BATCH_OFFSET { index.checked_sub(1)? } else { index };
        (last > halt.place.0).then(|| &self.segments[last])
    }

    /// Reports the first segments as missing if what lay in them had not been given up.
    fn check_head(&mut self) {
        let Some(first) = &self.segments[0].first else { return };
        let missing = first.prev.end;
        if missing != Lsn(0) && missing >= self.trimmed() {
            let segment = format!("a missing segment before {}", self.segments[0].name);
            let to = first.position;
            self.damage.insert(0, Extent { segment, offset: 0, from: self.trimmed(), to });
        }
    }

    /// Keeps segments whose records are lost in their place: they may still be of use to a repair.
    fn keep_lost(&mut self) {
        let last = self.live.last().map_or(0, |live| live.sequence);
        for segment in self.segments {
            let at = self.live.partition_point(|live| live.sequence < segment.sequence);
            let known = self.live.get(at).is_some_and(|live| live.sequence == segment.sequence);
            if known || (segment.id.is_some() && segment.sequence > last) {
                continue;
            }
            let end = at.checked_sub(1).map_or(Lsn(0), |before| self.live[before].end);
            let (sequence, id, bytes) = (segment.sequence, segment.id, segment.size);
            let start = id.map_or(end, |id| id.base);
            let live = Live { sequence, id, start, end: end.max(start), bytes, lost: true };
            self.live.insert(at, live);
        }
    }
}
