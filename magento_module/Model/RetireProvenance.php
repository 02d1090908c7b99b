<?php

declare(strict_types=1);

namespace Tocsin\BreachNotification\Model;

use DateTimeImmutable;
use DateTimeZone;
use Magento\Framework\Exception\InputException;
use Magento\Framework\Exception\NoSuchEntityException;
use Magento\Framework\Phrase;
use Tocsin\BreachNotification\Api\Data\ProvenanceRecordInterface;
use Tocsin\BreachNotification\Api\RetireProvenanceInterface;
use Tocsin\BreachNotification\Model\ResourceModel\ProvenanceTable;

/**
 * @inheritDoc
 */
class RetireProvenance implements RetireProvenanceInterface
{
    private ProvenanceTable $table;
    private CheckRecord $checkRecord;
    private MakeRecord $makeRecord;

    public function __construct(ProvenanceTable $table, CheckRecord $checkRecord, MakeRecord $makeRecord)
    {
        $this->table = $table;
        $this->checkRecord = $checkRecord;
        $this->makeRecord = $makeRecord;
    }

    /**
     * @inheritDoc
     */
    public function execute(string $recordId, ?string $deletedAt = null): ProvenanceRecordInterface
    {
        $row = $this->row($recordId);
        $now = new DateTimeImmutable('now', new DateTimeZone('UTC'));
        $at = $now->format('Y-m-d H:i:s');
        if ($deletedAt !== null) {
            $checked = new CheckedRecord();
            // upwards, so that the value counts as held during all of its last second
            $at = $this->checkRecord->instant('deletedAt', $deletedAt, $now, $checked, true);
            if ($at === null) {
                throw new InputException(new Phrase((string)__('"%1" %2', 'deletedAt', $checked->errors[0]['reason'])));
            }
        }
        // Clocks differ: what is retired "now" was not removed before it was made.
        if ($deletedAt === null) {
            $at = max($at, (string)$row['generated_at']);
        } elseif ($at < (string)$row['generated_at']) {
            throw new InputException(new Phrase((string)__(
                '"deletedAt" lies before %1, when the model wrote the value.',
                $row['generated_at']
            )));
        }
        $this->table->retire($recordId, $at);
        $row = $this->row($recordId);
        if ($deletedAt !== null && (string)$row['deleted_at'] !== $at) {
            throw new InputException(new Phrase((string)__(
                'Record "%1" is retired as of %2 already; that time is set once.',
                $recordId,
                $row['deleted_at']
            )));
        }
        return $this->makeRecord->execute($row);
    }

    /**
     * @return array<string, mixed>
     * @throws NoSuchEntityException
     */
    private function row(string $recordId): array
    {
        $row = $this->table->byRecordId([$recordId])[strtolower($recordId)] ?? null;
        if ($row === null || $row['record_id'] !== $recordId) {
            throw new NoSuchEntityException(new Phrase((string)__('There is no provenance record of that id.')));
        }
        return $row;
    }
}
