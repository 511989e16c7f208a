;; A mechtron that does what its messages say, for tests. The first byte of a body chooses:
;;   =  puts out the frames that follow from the 8th byte on; an id of -1 becomes the message's
;;   i  counts one and answers the count; the count is the state
;;   c  answers the count
;;   w  never answers
;;   y  logs a line, then traps
;;   u l f r m x g n p o s   misbehaves (see below)
;; REPLY and ERROR with a token answer the message with that id. A timer counts 100.
(module
  (import "mechtron" "mechtron_log" (func $log (param i32 i32 i32)))
  (memory (export "memory") 4)
  (data (i32.const 16) "\01\09E-TIMEOUT\00")
  (data (i32.const 32) "a last line")
  (table 2 funcref)
  (global $inbox i32 (i32.const 65536))
  (global $outbox (mut i32) (i32.const 0))
  (global $out (mut i32) (i32.const 0))
  (global $count (mut i32) (i32.const 0))
  ;;MODULE
  (func (export "mechtron_abi") (result i32) (i32.const 0x10000))
  (func (export "mechtron_inbox") (param $min i32) (result i32)
    (local $pages i32)
    (global.set $outbox (i32.add (global.get $inbox) (i32.and (i32.add (local.get $min) (i32.const 7)) (i32.const -8))))
    (local.set $pages
      (i32.sub
        (i32.shr_u (i32.add (i32.add (global.get $outbox) (i32.mul (local.get $min) (i32.const 2))) (i32.const 131071)) (i32.const 16))
        (memory.size)))
    (if (i32.gt_s (local.get $pages) (i32.const 0))
      (then (if (i32.eq (memory.grow (local.get $pages)) (i32.const -1)) (then (return (i32.const 0))))))
    (global.get $inbox))
  (func (export "mechtron_init") (param $length i32) (result i64)
    ;;INIT
    (i64.const 0))
  (func (export "mechtron_run") (param $length i32) (result i64)
    (local $in i32) (local $end i32) (local $kind i32) (local $special i64)
    (local.set $in (global.get $inbox))
    (local.set $end (i32.add (global.get $inbox) (local.get $length)))
    (global.set $out (global.get $outbox))
    (block $done
      (loop $next
        (br_if $done (i32.ge_u (local.get $in) (local.get $end)))
        (local.set $kind (i32.load16_u (local.get $in)))
        (if (i32.eq (local.get $kind) (i32.const 1))
          (then
            (local.set $special (call $message (local.get $in)))
            (if (i64.ne (local.get $special) (i64.const 0)) (then (return (local.get $special))))))
        ;; REPLY becomes ANSWER, ERROR becomes FAIL.
        (if (i32.eq (local.get $kind) (i32.const 2)) (then (call $turn (local.get $in) (i32.const 131))))
        (if (i32.eq (local.get $kind) (i32.const 3)) (then (call $turn (local.get $in) (i32.const 132))))
        (if (i32.eq (local.get $kind) (i32.const 4))
          (then (global.set $count (i32.add (global.get $count) (i32.const 100))) (call $put)))
        (if (i32.eq (local.get $kind) (i32.const 5))
          (then
            (call $frame (i32.const 132) (i64.load offset=8 (local.get $in)) (i32.const 0) (i32.const 16) (i32.const 12))))
        (if (i32.eq (local.get $kind) (i32.const 6))
          (then
            ;;START
            (if (i32.and (i32.load16_u offset=2 (local.get $in)) (i32.const 2))
              (then (global.set $count (i32.load (i32.add (i32.add (local.get $in) (i32.const 24)) (i32.load offset=20 (local.get $in)))))))))
        (local.set $in (call $after (local.get $in)))
        (br $next)))
    (i64.or
      (i64.shl (i64.extend_i32_u (global.get $outbox)) (i64.const 32))
      (i64.extend_i32_u (i32.sub (global.get $out) (global.get $outbox)))))
  (func $after (param $at i32) (result i32)
    (i32.add (i32.add (local.get $at) (i32.const 24))
      (i32.and (i32.add (i32.load offset=4 (local.get $at)) (i32.const 7)) (i32.const -8))))
  ;; Puts out a frame.
  (func $frame (param $kind i32) (param $id i64) (param $aux i32) (param $from i32) (param $length i32)
    (i32.store (global.get $out) (local.get $kind))
    (i32.store offset=4 (global.get $out) (local.get $length))
    (i64.store offset=8 (global.get $out) (local.get $id))
    (i32.store offset=16 (global.get $out) (i32.const 0))
    (i32.store offset=20 (global.get $out) (local.get $aux))
    (memory.copy (i32.add (global.get $out) (i32.const 24)) (local.get $from) (local.get $length))
    (global.set $out (call $after (global.get $out))))
  (func $turn (param $in i32) (param $kind i32)
    (call $frame (local.get $kind) (i64.load offset=8 (local.get $in)) (i32.load offset=20 (local.get $in))
      (i32.add (local.get $in) (i32.const 24)) (i32.load offset=4 (local.get $in))))
  ;; Puts the count out as the state.
  (func $put
    (i32.store (i32.const 0) (global.get $count))
    (call $frame (i32.const 135) (i64.const 0) (i32.const 0) (i32.const 0) (i32.const 4)))
  ;; Answers a number.
  (func $answer (param $id i64) (param $number i32)
    (i32.store (i32.const 0) (i32.const 0x0001c8))
    (i32.store (i32.const 3) (local.get $number))
    (call $frame (i32.const 131) (local.get $id) (i32.const 3) (i32.const 0) (i32.const 7)))
  (func $deep (param $n i32) (result i32) (i32.add (call $deep (i32.add (local.get $n) (i32.const 1))) (i32.const 1)))
  (func $even (param $n i64) (result i64) (i64.add (call $odd (i64.add (local.get $n) (i64.const 1))) (i64.const 1)))
  (func $odd (param $n i64) (result i64) (i64.sub (call $even (i64.add (local.get $n) (i64.const 1))) (i64.const 1)))
  ;; Does what a message says. Anything but 0 is returned from the run at once.
  (func $message (param $in i32) (result i64)
    (local $body i32) (local $id i64) (local $op i32) (local $n i32) (local $end i32)
    (local.set $body (i32.add (i32.add (local.get $in) (i32.const 24)) (i32.load offset=20 (local.get $in))))
    (local.set $end (i32.add (i32.add (local.get $in) (i32.const 24)) (i32.load offset=4 (local.get $in))))
    (local.set $id (i64.load offset=8 (local.get $in)))
    (local.set $op (i32.load8_u (local.get $body)))
    (if (i32.eq (local.get $op) (i32.const 61)) ;; = frames
      (then
        (local.set $n (global.get $out))
        (memory.copy (global.get $out) (i32.add (local.get $body) (i32.const 8))
          (i32.sub (i32.sub (local.get $end) (local.get $body)) (i32.const 8)))
        (global.set $out (i32.add (global.get $out) (i32.sub (i32.sub (local.get $end) (local.get $body)) (i32.const 8))))
        (block $done (loop $patch
          (br_if $done (i32.ge_u (local.get $n) (global.get $out)))
          (if (i64.eq (i64.load offset=8 (local.get $n)) (i64.const -1))
            (then (i64.store offset=8 (local.get $n) (local.get $id))))
          (local.set $n (call $after (local.get $n)))
          (br $patch)))))
    (if (i32.eq (local.get $op) (i32.const 105)) ;; i count
      (then
        (global.set $count (i32.add (global.get $count) (i32.const 1)))
        (call $put)
        (call $answer (local.get $id) (global.get $count))))
    (if (i32.eq (local.get $op) (i32.const 99)) ;; c the count
      (then (call $answer (local.get $id) (global.get $count))))
    (if (i32.eq (local.get $op) (i32.const 121)) ;; y logs, then traps
      (then (call $log (i32.const 3) (i32.const 32) (i32.const 11)) (unreachable)))
    (if (i32.eq (local.get $op) (i32.const 117)) ;; u trap
      (then (unreachable)))
    (if (i32.eq (local.get $op) (i32.const 108)) ;; l loop
      (then (loop $ever (br $ever))))
    (if (i32.eq (local.get $op) (i32.const 102)) ;; f fill
      (then (drop (memory.grow (i32.const 900)))
        (loop $ever (memory.fill (i32.const 262144) (i32.const 7) (i32.const 50000000)) (br $ever))))
    (if (i32.eq (local.get $op) (i32.const 114)) ;; r recursion
      (then (drop (call $deep (i32.const 0)))))
    (if (i32.eq (local.get $op) (i32.const 109)) ;; m mutual recursion
      (then (drop (call $even (i64.const 0)))))
    (if (i32.eq (local.get $op) (i32.const 120)) ;; x a loop around a host function
      (then (loop $ever (call $log (i32.const 3) (i32.const 16) (i32.const 12)) (br $ever))))
    (if (i32.eq (local.get $op) (i32.const 103)) ;; g grow to 4 GiB: must fail
      (then (call $answer (local.get $id) (memory.grow (i32.const 65000)))))
    (if (i32.eq (local.get $op) (i32.const 110)) ;; n says that it failed
      (then (return (i64.const -1))))
    (if (i32.eq (local.get $op) (i32.const 112)) ;; p an output of 1 GiB
      (then (return (i64.const 0x0000000040000000))))
    (if (i32.eq (local.get $op) (i32.const 111)) ;; o an output beyond memory
      (then (return (i64.const 0x7fffffff00000040))))
    (if (i32.eq (local.get $op) (i32.const 115)) ;; s a million frames
      (then
        (block $full (loop $more
          (br_if $full (i32.ge_u (local.get $n) (i32.const 1000000)))
          (if (i32.lt_u (i32.shl (memory.size) (i32.const 16)) (i32.add (global.get $out) (i32.const 64)))
            (then (br_if $full (i32.eq (memory.grow (i32.const 16)) (i32.const -1)))))
          (call $frame (i32.const 138) (i64.const 0) (i32.const 3) (i32.const 16) (i32.const 8))
          (local.set $n (i32.add (local.get $n) (i32.const 1)))
          (br $more)))))
    (i64.const 0)))
