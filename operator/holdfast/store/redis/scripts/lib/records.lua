-- lib/records: [tokens,flags,seq,ts,group,id,item] or with notes behind; flags as in holdfast.values.Flag.
local function parse_record(value)
  local tokens, flags, seq, ts, group = string.match(value, '^%[(%d+),(%d+),(%d+),(%d+),(%d+),')
  if not tokens then
    error({ err = 'CORRUPT a record does not have the form of a record' })
  end
  flags = tonumber(flags)
  local record = {
    tokens = tonumber(tokens), flags = flags, seq = tonumber(seq), ts = tonumber(ts), group = tonumber(group),
    opens = math.floor(flags / 4096) % 256, closes = math.floor(flags / 1048576) % 256, value = value, bytes = #value,
  }
  -- Of more calls than 255 the rest stands higher up: holdfast.values.call_flags.
  if flags >= 2 ^ 28 then
    record.opens = record.opens + math.floor(flags / 2 ^ 28) % 4096 * 256
    record.closes = record.closes + math.floor(flags / 2 ^ 40) % 4096 * 256
  end
  return record
end
