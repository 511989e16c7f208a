;; A mechtron written by hand: it answers every message with the message's own body.
;;
;; It needs no SDK and imports nothing. What crosses between it and its host are frames: 24 bytes of header, then a
;; payload, padded so that the next frame begins at a multiple of 8. All numbers are little-endian.
;;
;;   offset 0   u16  kind      1 is a MESSAGE to handle, 131 an ANSWER to one
;;   offset 2   u16  flags
;;   offset 4   u32  length    of the payload, without the padding
;;   offset 8   u64  id        an ANSWER bears the id of its MESSAGE
;;   offset 16  u32  actor     0
;;   offset 20  u32  aux       how many bytes of the payload are the head; the rest is the body
(module
  ;; The host reads and writes the frames here. It clamps the maximum.
  (memory (export "memory") 1)

  ;; The inbox begins at 1024 and is as large as the host last asked for; the outbox comes right after it.
  (global $inbox i32 (i32.const 1024))
  (global $outbox (mut i32) (i32.const 0))

  ;; Which version of the ABI this is: 1.0, as major << 16 | minor.
  (func (export "mechtron_abi") (result i32) (i32.const 0x10000))

  ;; The host asks for room to put frames into: at least $min bytes. An answer is never longer than its message, so
  ;; an outbox of the same size is enough. 0 would say that there is no room.
  (func (export "mechtron_inbox") (param $min i32) (result i32)
    (local $pages i32)
    (global.set $outbox
      (i32.add (global.get $inbox)
        (i32.and (i32.add (local.get $min) (i32.const 7)) (i32.const -8))))
    ;; How many pages of 64 KiB are missing up to the end of the outbox?
    (local.set $pages
      (i32.sub
        (i32.shr_u (i32.add (i32.add (global.get $outbox) (local.get $min)) (i32.const 65543)) (i32.const 16))
        (memory.size)))
    (if (i32.gt_s (local.get $pages) (i32.const 0))
      (then
        (if (i32.eq (memory.grow (local.get $pages)) (i32.const -1))
          (then (return (i32.const 0))))))
    (global.get $inbox))

  ;; The configuration is in the inbox; this mechtron has no use for it. Not negative: all is well.
  (func (export "mechtron_init") (param $length i32) (result i64) (i64.const 0))

  ;; There are $length bytes of frames in the inbox. Returns where the answer's frames are: pointer << 32 | length.
  (func (export "mechtron_run") (param $length i32) (result i64)
    (local $in i32) (local $end i32) (local $out i32) (local $head i32) (local $body i32)
    (local.set $in (global.get $inbox))
    (local.set $end (i32.add (global.get $inbox) (local.get $length)))
    (local.set $out (global.get $outbox))
    (block $done
      (loop $next
        (br_if $done (i32.ge_u (local.get $in) (local.get $end)))
        ;; Frames of other kinds (the time, the start, the stop) say nothing that an echo must know.
        (if (i32.eq (i32.load16_u (local.get $in)) (i32.const 1))
          (then
            (local.set $head (i32.load offset=20 (local.get $in)))
            (local.set $body (i32.sub (i32.load offset=4 (local.get $in)) (local.get $head)))
            ;; The header of the answer. Its head is 3 bytes: status 200 in two, then "no headers".
            (i32.store (local.get $out) (i32.const 131))
            (i32.store offset=4 (local.get $out) (i32.add (local.get $body) (i32.const 3)))
            (i64.store offset=8 (local.get $out) (i64.load offset=8 (local.get $in)))
            (i32.store offset=16 (local.get $out) (i32.const 0))
            (i32.store offset=20 (local.get $out) (i32.const 3))
            (i32.store16 offset=24 (local.get $out) (i32.const 0x01c8))
            (i32.store8 offset=26 (local.get $out) (i32.const 0))
            ;; The body as it came.
            (memory.copy
              (i32.add (local.get $out) (i32.const 27))
              (i32.add (i32.add (local.get $in) (i32.const 24)) (local.get $head))
              (local.get $body))
            (local.set $out (call $after (local.get $out)))))
        (local.set $in (call $after (local.get $in)))
        (br $next)))
    (i64.or
      (i64.shl (i64.extend_i32_u (global.get $outbox)) (i64.const 32))
      (i64.extend_i32_u (i32.sub (local.get $out) (global.get $outbox)))))

  ;; Where the frame after the one at $at begins: behind its header, its payload and the padding.
  (func $after (param $at i32) (result i32)
    (i32.add
      (i32.add (local.get $at) (i32.const 24))
      (i32.and (i32.add (i32.load offset=4 (local.get $at)) (i32.const 7)) (i32.const -8)))))
