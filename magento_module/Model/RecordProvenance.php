<?php

declare(strict_types=1);

namespace Tocsin\BreachNotification\Model;

use Magento\Framework\Exception\InputException;
use Magento\Framework\Phrase;
use Tocsin\BreachNotification\Api\Data\ProvenanceReceiptInterface;
use Tocsin\BreachNotification\Api\Data\ProvenanceReceiptInterfaceFactory;
use Tocsin\BreachNotification\Api\RecordProvenanceInterface;

/**
 * @inheritDoc
 */
class RecordProvenance implements RecordProvenanceInterface
{
    private StoreRecords $storeRecords;
    private ProvenanceReceiptInterfaceFactory $receiptFactory;

    public function __construct(StoreRecords $storeRecords, ProvenanceReceiptInterfaceFactory $receiptFactory)
    {
        $this->storeRecords = $storeRecords;
        $this->receiptFactory = $receiptFactory;
    }

    /**
     * @inheritDoc
     */
    public function execute($record): ProvenanceReceiptInterface
    {
        $outcome = $this->storeRecords->execute([$record])[0];
        if ($outcome['errors'] !== []) {
            $refusal = new InputException();
            foreach ($outcome['errors'] as $error) {
                $refusal->addError(new Phrase('"' . $error['field'] . '" ' . $error['reason']));
            }
            throw $refusal;
        }
        return $this->receiptFactory->create()
            ->setRecordId((string)$outcome['record_id'])
            ->setStatus((string)$outcome['status']);
    }
}
