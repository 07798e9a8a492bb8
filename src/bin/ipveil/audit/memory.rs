//! The memory of a process that runs.

use std::{
    fs::{self, File},
    io::{self, Read},
    ops::Range,
    os::unix::fs::FileExt as _,
    sync::Arc,
};

use anyhow::{Context as _, bail};

/// A part of it that can be read and could have been written to, and what it is for: `[heap]`, `[stack]`, `anonymous`, or a file.
pub(crate) struct Region {
    pub(crate) name: Arc<str>,
    pub(crate) start: u64,
    pub(crate) end: u64,
}

/// Of another process, or of a thread of it: where a thread's stack is, nobody says.
pub(crate) struct Memory {
    file: File,
    // Says what each page is, if the kernel can.
    pages: Option<File>,
    page_size: u64,
    pub(crate) regions: Vec<Region>,
}

impl Memory {
    pub(crate) fn of(process: u32) -> anyhow::Result<Self> {
        let path = format!("/proc/{process}/maps");
        let refused = || {
            format!("the memory of process {process} can't be read (expected to be root, or to have CAP_SYS_PTRACE)")
        };
        let maps = match fs::read_to_string(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => bail!("process {process} does not run"),
            maps => maps.with_context(refused)?,
        };
        let file = File::open(format!("/proc/{process}/mem")).with_context(refused)?;
        let regions: Vec<_> = maps.lines().filter_map(region).collect();
        if regions.is_empty() {
            bail!("process {process} has no memory (expected one that runs, and is not the kernel's)");
        }
        let pages = File::open(format!("/proc/{process}/pagemap")).ok();
        Ok(Self { file, pages, page_size: page_size().unwrap_or(4096), regions })
    }

    /// What is in there now.
    pub(crate) fn read(&self, region: &Region) -> Reader<'_> {
        Reader { memory: self, at: region.start, end: region.end, unread: Vec::new() }
    }

    /// A page that its process lets nobody touch, such as the last of a stack: there is nothing in it.
    fn is_guard(&self, place: u64) -> bool {
        // Linux 6.15, pagemap: the mark of MADV_GUARD_INSTALL.
        const GUARD: u64 = 1 << 58;
        let mut entry = [0; 8];
        let read = self.pages.as_ref().map(|pages| pages.read_exact_at(&mut entry, place / self.page_size * 8));
        matches!(read, Some(Ok(()))) && u64::from_ne_bytes(entry) & GUARD != 0
    }

    /// What of these places is in there.
    pub(crate) fn parts(&self, places: &[Range<u64>]) -> Vec<Range<u64>> {
        let part = |place: &Range<u64>, region: &Region| place.start.max(region.start)..place.end.min(region.end);
        let parts = places.iter().flat_map(|place| self.regions.iter().map(move |region| part(place, region)));
        parts.filter(|part| !part.is_empty()).collect()
    }
}

/// Reads a region.
pub(crate) struct Reader<'m> {
    memory: &'m Memory,
    at: u64,
    end: u64,
    /// Pages that could not be read: there are zeros in their place.
    pub(crate) unread: Vec<Range<u64>>,
}

impl Read for Reader<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = (self.end - self.at).min(buffer.len() as u64) as usize;
        let buffer = &mut buffer[..length];
        let read = match self.memory.file.read_at(buffer, self.at) {
            // Of a process that has ended there is nothing to read, and no error.
            Ok(0) if length > 0 => {
                return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the process ended while it was read"));
            }
            Err(error) if error.kind() != io::ErrorKind::Interrupted => self.pass_over_page(buffer),
            read => read?,
        };
        self.at += read as u64;
        Ok(read)
    }
}

impl Reader<'_> {
    fn pass_over_page(&mut self, buffer: &mut [u8]) -> usize {
        let page_size = self.memory.page_size;
        let length = (page_size - self.at % page_size).min(buffer.len() as u64);
        buffer[..length as usize].fill(0);
        let place = self.at..self.at + length;
        match self.unread.last_mut() {
            _ if self.memory.is_guard(self.at) => {}
            Some(last) if last.end == place.start => last.end = place.end,
            _ => self.unread.push(place),
        }
        length as usize
    }
}

/// The kernel tells each program in a list of pairs, this under the key 6 (AT_PAGESZ).
fn page_size() -> Option<u64> {
    const WORD: usize = size_of::<usize>();
    let list = fs::read("/proc/self/auxv").ok()?;
    let mut words = list.as_chunks::<WORD>().0.iter().map(|&word| usize::from_ne_bytes(word) as u64);
    while let (Some(key), Some(value)) = (words.next(), words.next()) {
        if key == 6 && value.is_power_of_two() {
            return Some(value);
        }
    }
    None
}

/// `55d0c0a00000-55d0c0a21000 rw-p 00000000 00:00 0    [heap]`, if it can be read.
fn region(line: &str) -> Option<Region> {
    let mut fields = line.split_ascii_whitespace();
    let (start, end) = fields.next()?.split_once('-')?;
    let rights = fields.next()?.as_bytes();
    let is_files = fields.nth(2)? != "0";
    let name = fields.next().unwrap_or("anonymous");
    // Of a file that is not written to: a program, with the examples in its manual.
    let can_be_read = rights.starts_with(b"r") && (rights.starts_with(b"rw") || !is_files);
    // memfd_secret(2), which nobody else can read, root neither.
    let is_secret = name == "/secretmem" && fields.next() == Some("(deleted)");
    // The kernel's own, which nobody else can write to.
    let is_kernels = name.starts_with("[vvar") || name == "[vsyscall]" || name == "[vdso]";
    let hex = |text| u64::from_str_radix(text, 16).ok();
    let region = Region { name: name.into(), start: hex(start)?, end: hex(end)? };
    (can_be_read && !is_secret && !is_kernels).then_some(region)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn regions_that_can_be_read_are_told_from_others() {
        let heap = region("55d0c0a00000-55d0c0a21000 rw-p 00000000 00:00 0    [heap]").unwrap();
        assert_eq!((&*heap.name, heap.start, heap.end), ("[heap]", 0x55d0_c0a0_0000, 0x55d0_c0a2_1000));
        assert_eq!(&*region("7f00-7f10 rw-p 00000000 00:00 0").unwrap().name, "anonymous");
        assert!(region("7f00-7f10 ---p 00000000 00:00 0").is_none());
        assert!(region("7f00-7f10 r--p 00000000 00:00 0 [vvar]").is_none());
        assert!(region("7f00-7f10 rw-s 00000000 00:0e 5234351 /secretmem (deleted)").is_none());
        assert!(region("7f00-7f10 r--p 00000000 08:01 4711 /usr/bin/ipveil").is_none());
        assert_eq!(&*region("7f00-7f10 rw-p 00000000 08:01 4711 /usr/bin/ipveil").unwrap().name, "/usr/bin/ipveil");
        assert!(region("nonsense").is_none());
    }

    #[test]
    fn a_page_that_cant_be_read_is_told_and_the_rest_is_read() {
        let mut memory = Memory::of(std::process::id()).unwrap();
        let page = memory.page_size;
        let maps = fs::read_to_string("/proc/self/maps").unwrap();
        let ends: Vec<_> = maps.lines().filter_map(|line| line.split(['-', ' ']).nth(1)).collect();
        // Where nothing is mapped right before it.
        let is_free = |region: &Region| !ends.contains(&format!("{:x}", region.start).as_str());
        let place = memory.regions.iter().position(is_free).unwrap();
        let Region { name, start, .. } = memory.regions.swap_remove(place);
        let region = Region { name, start: start - page, end: start + page };
        let mut reader = memory.read(&region);
        let mut bytes = Vec::new();
        reader.read_to_end(&mut bytes).unwrap();
        let unread = reader.unread;
        assert_eq!((bytes.len() as u64, unread.len()), (2 * page, 1));
        assert_eq!(unread[0], start - page..start);
        assert!(bytes[..page as usize].iter().all(|&byte| byte == 0));

        // What is not mapped any more is not missed.
        assert_eq!(memory.parts(&unread), []);
        memory.regions.push(region);
        assert_eq!(memory.parts(&unread), unread);
    }

    #[test]
    fn the_end_of_a_process_is_not_the_end_of_its_memory() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let memory = Memory::of(child.id());
        child.kill().unwrap();
        child.wait().unwrap();
        // Some systems let nobody look.
        let Ok(memory) = memory else { return };
        let error = memory.read(&memory.regions[0]).read(&mut [0; 16]).unwrap_err();
        assert_eq!(error.to_string(), "the process ended while it was read");
    }
}
