<?php

declare(strict_types=1);

namespace Tocsin\BreachNotification\Model;

use Magento\Framework\Exception\InputException;
use Magento\Framework\Phrase;
use Tocsin\BreachNotification\Api\Data\BulkReceiptInterface;
use Tocsin\BreachNotification\Api\Data\BulkReceiptInterfaceFactory;
use Tocsin\BreachNotification\Api\Data\FieldErrorInterfaceFactory;
use Tocsin\BreachNotification\Api\Data\RefusedRecordInterfaceFactory;
use Tocsin\BreachNotification\Api\RecordProvenanceInBulkInterface;

/**
 * @inheritDoc
 */
class RecordProvenanceInBulk implements RecordProvenanceInBulkInterface
{
    private StoreRecords $storeRecords;
    private BulkReceiptInterfaceFactory $receiptFactory;
    private RefusedRecordInterfaceFactory $refusedFactory;
    private FieldErrorInterfaceFactory $errorFactory;

    public function __construct(
        StoreRecords $storeRecords,
        BulkReceiptInterfaceFactory $receiptFactory,
        RefusedRecordInterfaceFactory $refusedFactory,
        FieldErrorInterfaceFactory $errorFactory
    ) {
        $this->storeRecords = $storeRecords;
        $this->receiptFactory = $receiptFactory;
        $this->refusedFactory = $refusedFactory;
        $this->errorFactory = $errorFactory;
    }

    /**
     * @inheritDoc
     */
    public function execute($records): BulkReceiptInterface
    {
        if (!is_array($records) || $records === [] || !array_is_list($records)) {
            throw new InputException(new Phrase((string)__('"records" must be a list of at least one record.')));
        }
        if (count($records) > self::MOST_RECORDS) {
            throw new InputException(new Phrase((string)__(
                '"records" has %1 records; %2 are the most of one call. Nothing was stored.',
                count($records),
                self::MOST_RECORDS
            )));
        }
        $counts = [StoreRecords::RECORDED => 0, StoreRecords::REPEATED => 0];
        $refused = [];
        foreach ($this->storeRecords->execute($records) as $position => $outcome) {
            if ($outcome['errors'] === []) {
                $counts[$outcome['status']]++;
                continue;
            }
            $errors = [];
            foreach ($outcome['errors'] as $error) {
                $errors[] = $this->errorFactory->create()->setField($error['field'])->setReason($error['reason']);
            }
            $refused[] = $this->refusedFactory->create()
                ->setPosition($position)
                ->setRecordId($outcome['record_id'])
                ->setErrors($errors);
        }
        return $this->receiptFactory->create()
            ->setRecordedCount($counts[StoreRecords::RECORDED])
            ->setRepeatedCount($counts[StoreRecords::REPEATED])
            ->setRefused($refused);
    }
}
